//! Attention over the positions so far.

use std::borrow::Cow;
use std::fmt;

use crate::spec::{Linear, Norm};

use super::{Layer, Mixer, Module, Role, Section, Small};

/// Softmax attention (Vaswani et al., 2017, section 3.2) with grouped key/value heads (Ainslie et al., 2023).
///
/// Queries and keys go through: projection and bias, `qk_norm`, `clip`, `rope`.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// `[heads * head_dim, hidden]`.
    pub q: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, hidden]`.
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
    /// Sliding window: position `i` sees `j` with `i - window < j <= i`.
    pub window: Option<usize>,
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

/// Rotary position encoding (Su et al., "RoFormer", 2021), in the half-split form of
/// `transformers`: in each head the first `rotated = 2 * inv_freq.len()` elements take part, and
/// element `i` is rotated with element `i + rotated / 2`.
#[derive(Clone, PartialEq)]
pub struct Rope {
    /// Angle per position of each pair, in radians, with scaling applied (linear, llama3, yarn).
    pub inv_freq: Vec<f32>,
    /// Factor on cosine and sine (yarn's attention factor); 1 elsewhere.
    pub attention_factor: f32,
    /// How the angles change beyond the context that the model was trained on (type dynamic).
    pub dynamic: Option<DynamicRope>,
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
        if let Some(dynamic) = &self.dynamic {
            fields.field("dynamic", dynamic);
        }
        fields.finish()
    }
}

describe!(Attention, |parts| Attention {
    q,
    k,
    v,
    o,
    qk_norm,
    heads: _,
    kv_heads: _,
    head_dim: _,
    scale: _,
    clip: _,
    rope: _,
    window: _,
} => {
    parts.section(Section::of(Module::Attention));
    parts.linear(Role::Query, q);
    parts.linear(Role::Key, k);
    parts.linear(Role::Value, v);
    parts.section(Section::of(Module::Own));
    parts.linear(Role::Out, o);
    if let Some(QkNorm { q, k, per_head: _ }) = qk_norm {
        parts.norm(q);
        parts.norm(k);
    }
});

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
        let mut text = format!("{} of {}", super::plural(self.heads, "head"), self.head_dim);
        if self.kv_heads != self.heads {
            text += &format!(", {} for keys and values", self.kv_heads);
        }
        match self.rope.as_ref().map(|rope| 2 * rope.inv_freq.len()) {
            None => text += ", no positions",
            Some(rotated) if rotated == self.head_dim => text += ", rope",
            Some(rotated) => text += &format!(", rope on {rotated}"),
        }
        if let Some(qk) = &self.qk_norm {
            text += if qk.per_head { ", heads normed" } else { ", q and k normed" };
        }
        if let Some(clip) = self.clip {
            text += &format!(", clipped at {clip}");
        }
        if let Some(window) = self.window {
            text += &format!(", window {window}");
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
        Mixer::Attention(Self {
            q: self.q.sized(heads * head_dim, to.hidden),
            k: self.k.sized(kv_heads * head_dim, to.hidden),
            v: self.v.sized(kv_heads * head_dim, to.hidden),
            o: self.o.sized(to.hidden, heads * head_dim),
            heads,
            kv_heads,
            head_dim,
            scale: self.scale,
            qk_norm,
            clip: self.clip,
            rope: self.rope.clone(),
            window: self.window.map(|window| window.min(to.window)),
        })
    }
}
