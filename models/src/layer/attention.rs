//! Attention over the positions so far.

use std::borrow::Cow;
use std::fmt;

use crate::spec::{Adapter, Linear, Norm};

use super::small::sized_parts;
use super::{Layer, Mixer, Module, Role, Section, Small};

/// Softmax attention (Vaswani et al., 2017, section 3.2) with grouped key/value heads (Ainslie et al., 2023).
///
/// Queries and keys go through: projection and bias, `qk_norm`, `clip`, `rope`. `inputs` is the width of what is read: `hidden`, or
/// twice that beside the embeddings.
#[derive(Clone, PartialEq)]
pub struct Attention {
    /// `[heads * head_dim, inputs]` in all: one matrix, or one for each head where a checkpoint keeps the rows of a head together.
    pub q: Vec<Linear>,
    /// `[kv_heads * head_dim, inputs]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, inputs]`.
    pub v: Linear,
    /// `[hidden, heads * head_dim]`.
    pub o: Linear,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads; query head `h` reads `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on `q . k` before the softmax; `1 / sqrt(head_dim)` nearly everywhere.
    pub scale: f32,
    /// RMS norm on queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// OLMoE's `clip_qkv`: queries, keys and values are clamped to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// Rotary position encoding; `None` for NoPE.
    pub rope: Option<Rope>,
    /// Output gate: each head's output is multiplied by `sigmoid` of it before `o`, by element, `[heads * head_dim, hidden]` in all, or
    /// as a whole, `[heads, hidden]` (Qiu et al., "Gated Attention for Large Language Models", 2025, section 2.2). As `q`, one matrix or
    /// one for each head; none without a gate.
    pub gate: Vec<Linear>,
    /// Sliding window: position `i` sees `j` with `i - window < j <= i`.
    pub window: Option<usize>,
    /// What is added to queries, keys and values before anything else. Attention that is shared between layers has them for each use
    /// (Zamba2, arXiv:2411.15242, section 2).
    pub adapters: Option<Box<QkvAdapters>>,
}

/// Low-rank additions to the projections of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct QkvAdapters {
    /// To queries.
    pub q: Adapter,
    /// To keys.
    pub k: Adapter,
    /// To values.
    pub v: Adapter,
}

impl fmt::Debug for Attention {
    // Saved sessions identify a model by this text, so it omits what most models don't have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Attention");
        fields.field("q", &self.q).field("k", &self.k).field("v", &self.v).field("o", &self.o);
        fields.field("heads", &self.heads).field("kv_heads", &self.kv_heads);
        fields.field("head_dim", &self.head_dim).field("scale", &self.scale);
        fields.field("qk_norm", &self.qk_norm).field("clip", &self.clip);
        fields.field("rope", &self.rope).field("gate", &self.gate).field("window", &self.window);
        if let Some(adapters) = &self.adapters {
            fields.field("adapters", adapters);
        }
        fields.finish()
    }
}

/// RMS norm of queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNorm {
    /// For queries: over `head_dim` if `per_head`, else over `heads * head_dim`.
    pub q: Norm,
    /// For keys: over `head_dim` if `per_head`, else over `kv_heads * head_dim`.
    pub k: Norm,
    /// Whether each head is normed separately (Qwen3) or the whole projection at once (OLMoE).
    pub per_head: bool,
}

impl QkNorm {
    /// The norms `PREFIX.q_norm` and `PREFIX.k_norm` of each head by itself, of width `head_dim`.
    pub fn of_heads(prefix: &str, head_dim: usize, eps: f32) -> Self {
        let norm = |name: &str| Norm::new(&format!("{prefix}.{name}"), head_dim, eps);
        Self { q: norm("q_norm"), k: norm("k_norm"), per_head: true }
    }
}

/// Rotary position encoding (Su et al., "RoFormer", 2021): `rotated = 2 * inv_freq.len()` elements at the front of each head are
/// turned in pairs. In the half-split form of `transformers`, element `i` is turned with element `i + rotated / 2`; in the interleaved
/// form of the paper (GPT-J, DeepSeek, Cohere), element `2 i` with `2 i + 1`.
#[derive(Clone, PartialEq)]
pub struct Rope {
    /// Angle per position of each pair, in radians, with scaling applied (linear, llama3, yarn).
    pub inv_freq: Vec<f32>,
    /// Factor on cosine and sine (yarn's attention factor); 1 elsewhere.
    pub attention_factor: f32,
    /// Whether neighbours are turned together.
    pub interleaved: bool,
    /// How the angles change beyond the context that the model was trained on (type dynamic).
    pub dynamic: Option<DynamicRope>,
    /// `inv_freq` in double precision, for angles that are exact at any position. Without it an angle is a product in single precision,
    /// as in `transformers`: at a position of a million it is off by up to 0.05.
    pub exact: Option<Vec<f64>>,
}

/// Rotary frequencies that depend on the length ("dynamic NTK scaling", by Reddit users bloc97 and emozilla, 2023): in a sequence of
/// `n > max_positions` tokens the base is `theta * (factor * n / max_positions - (factor - 1))^(d / (d - 2))`.
///
/// The length is counted up to each position, so a token's rotation depends on its position and not
/// on how many tokens were fed together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicRope {
    /// `theta`.
    pub theta: f32,
    /// `factor`.
    pub factor: f32,
    /// Number of positions that are rotated by [`Rope::inv_freq`].
    pub max_positions: usize,
    /// `d`: number of rotated elements of a head, above 2.
    pub rotated: usize,
}

impl Rope {
    /// The encoding of a whole head of `head_dim` elements in halves: pair `i` turns by `theta^(-2 i / head_dim)` for each position,
    /// exactly.
    pub fn exact(theta: f64, head_dim: usize) -> Self {
        let exponents = (0..head_dim / 2).map(|i| -2.0 * i as f64 / head_dim as f64);
        let frequencies: Vec<f64> = exponents.map(|exponent| theta.powf(exponent)).collect();
        Self {
            inv_freq: frequencies.iter().map(|&inv| inv as f32).collect(),
            attention_factor: 1.0,
            interleaved: false,
            dynamic: None,
            exact: Some(frequencies),
        }
    }

    /// The angle of each pair at `position`, as the reference computes it.
    pub fn angles_at(&self, position: usize) -> Vec<f64> {
        match &self.exact {
            Some(exact) => exact.iter().map(|inv| position as f64 * inv).collect(),
            None => {
                let inv_freq = self.inv_freq_at(position);
                inv_freq.iter().map(|inv| f64::from(position as f32 * inv)).collect()
            }
        }
    }

    /// Angles per position of each pair, for a token at `position`.
    pub fn inv_freq_at(&self, position: usize) -> Cow<'_, [f32]> {
        match &self.dynamic {
            Some(dynamic) if position >= dynamic.max_positions => {
                Cow::Owned(dynamic.inv_freq(position + 1))
            }
            _ => Cow::Borrowed(&self.inv_freq),
        }
    }
}

impl DynamicRope {
    /// Angles per position of each pair in a sequence of `length` tokens, in single precision as in
    /// the reference.
    fn inv_freq(&self, length: usize) -> Vec<f32> {
        let Self { theta, factor, max_positions, rotated } = *self;
        let stretch = factor * length as f32 / max_positions as f32 - (factor - 1.0);
        let exponent = (rotated as f64 / (rotated - 2) as f64) as f32;
        let base = theta * stretch.powf(exponent);
        let exponents = (0..rotated).step_by(2).map(|i| i as f32 / rotated as f32);
        // As in `Source::wavelengths`: the f32 nearest to the exact power, on every platform.
        exponents.map(|e| (f64::from(base).powf(f64::from(e)) as f32).recip()).collect()
    }
}

impl fmt::Debug for Rope {
    // Saved sessions identify a model by this text, so it omits fields that most models don't have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Rope");
        fields.field("inv_freq", &self.inv_freq);
        fields.field("attention_factor", &self.attention_factor);
        if self.interleaved {
            fields.field("interleaved", &self.interleaved);
        }
        if let Some(dynamic) = &self.dynamic {
            fields.field("dynamic", dynamic);
        }
        if let Some(exact) = &self.exact {
            fields.field("exact", exact);
        }
        fields.finish()
    }
}

describe!(Attention, |parts| Attention {
    q,
    k,
    v,
    o,
    gate,
    qk_norm,
    heads: _,
    kv_heads: _,
    head_dim: _,
    scale: _,
    clip: _,
    rope: _,
    window: _,
    adapters,
} => {
    parts.section(Section::of(Module::Attention));
    for q in q {
        parts.linear(Role::Query, q);
    }
    parts.linear(Role::Key, k);
    parts.linear(Role::Value, v);
    parts.section(Section::of(Module::Own));
    for gate in gate {
        parts.linear(Role::OutputGate, gate);
    }
    parts.linear(Role::Out, o);
    if let Some(QkNorm { q, k, per_head: _ }) = qk_norm {
        parts.norm(q);
        parts.norm(k);
    }
    if let Some(adapters) = adapters {
        parts.nested(adapters);
    }
});

describe!(QkvAdapters, |parts| QkvAdapters { q, k, v } => {
    for adapter in [q, k, v] {
        parts.nested(adapter);
    }
});

impl Attention {
    /// Gates of a token; 0 without a gate.
    pub fn gate_width(&self) -> usize {
        self.gate.iter().map(|part| part.weight.rows).sum()
    }

    /// Width of what is read.
    pub fn inputs(&self) -> usize {
        self.k.weight.cols
    }
}

impl Layer for Attention {
    fn kind(&self) -> &'static str {
        "attention"
    }

    fn title(&self) -> &'static str {
        "attention"
    }

    fn components(&self) -> &'static [&'static str] {
        &["attention"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let mut text = super::grouped_heads(self.heads, self.kv_heads, self.head_dim);
        match self.rope.as_ref().map(|rope| 2 * rope.inv_freq.len()) {
            None => text += ", no positions",
            Some(rotated) if rotated == self.head_dim => text += ", rope",
            Some(rotated) => text += &format!(", rope on {rotated}"),
        }
        if self.rope.as_ref().is_some_and(|rope| rope.interleaved) {
            text += " (interleaved)";
        }
        if let Some(qk) = &self.qk_norm {
            text += if qk.per_head { ", heads normed" } else { ", q and k normed" };
        }
        match self.gate_width() {
            0 => {}
            gates if gates == self.heads => text += ", heads gated",
            _ => text += ", output gated",
        }
        if let Some(clip) = self.clip {
            text += &format!(", clipped at {clip}");
        }
        if let Some(window) = self.window {
            text += &format!(", window {window}");
        }
        if self.inputs() != self.o.weight.rows {
            text += &format!(", reads {}", self.inputs());
        }
        if let Some(adapters) = &self.adapters {
            text += &format!(", adapters of rank {}", adapters.q.down.weight.rows);
        }
        text
    }

    fn rope(&self) -> Option<&Rope> {
        self.rope.as_ref()
    }

    fn small(&self, to: &Small) -> Mixer {
        let share = (self.heads / self.kv_heads.max(1)).max(1);
        let kv_heads = self.kv_heads.min(to.heads);
        let (heads, head_dim) = (kv_heads * share, self.head_dim);
        let qk_norm = self.qk_norm.as_ref().map(|norm| {
            let width = |heads: usize| if norm.per_head { head_dim } else { heads * head_dim };
            QkNorm {
                q: norm.q.sized(width(heads)),
                k: norm.k.sized(width(kv_heads)),
                per_head: norm.per_head,
            }
        });
        // Once the hidden width, or twice.
        let inputs = to.hidden * (self.inputs() / self.o.weight.rows.max(1)).max(1);
        let (wide, narrow) = (heads * head_dim, kv_heads * head_dim);
        Mixer::Attention(Self {
            q: sized_parts(&self.q, wide, inputs),
            k: self.k.sized(narrow, inputs),
            v: self.v.sized(narrow, inputs),
            o: self.o.sized(to.hidden, heads * head_dim),
            gate: sized_parts(&self.gate, heads * (self.gate_width() / self.heads.max(1)), inputs),
            heads,
            kv_heads,
            head_dim,
            scale: self.scale,
            qk_norm,
            clip: self.clip,
            rope: self.rope.clone(),
            window: self.window.map(|window| window.min(to.window)),
            adapters: self.adapters.as_ref().map(|adapters| {
                Box::new(QkvAdapters {
                    q: adapters.q.sized(wide, inputs),
                    k: adapters.k.sized(narrow, inputs),
                    v: adapters.v.sized(narrow, inputs),
                })
            }),
        })
    }
}
