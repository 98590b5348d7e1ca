//! Attention whose reach changes with the position: all of the past, then a window with thinned and chosen keys, then a memory of
//! constant size for the rest.

use crate::spec::{Linear, TensorSpec};

use super::{Layer, Mixer, Module, QkNorm, Role, Rope, Section, Small};

/// Softmax attention over a bounded number of keys, with a linear memory of the others.
///
/// A softmax logit is `scale q . k_j + s_j`, with `s = context(u)` for each key/value head. Which keys a position sees is
/// [`Tiers`]' subject. In the tiers with a linear memory, `y = (1 - g) softmax part + g S^T phi(q) / (z . phi(q) + eps)` with
/// `g = sigmoid(linear_gate[head])` and `phi(x) = elu(x) + 1`, where `S = sum phi(k) v^T` and `z = sum phi(k)` over all keys that
/// have left the window (Katharopoulos et al., "Transformers are RNNs", 2020, arXiv:2006.16236, eq. 16 to 20). Sliding windows and
/// dilated keys: Beltagy et al., "Longformer", 2020, arXiv:2004.05150, section 3.1.
#[derive(Clone, Debug, PartialEq)]
pub struct HybridAttention {
    /// `[heads * head_dim, hidden]`.
    pub q: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: Linear,
    /// `[kv_heads, hidden]`: the importance of a token, added to the logits of its keys; `None` for 0.
    pub context: Option<Linear>,
    /// `[heads]`: the share of the linear memory, before its sigmoid.
    pub linear_gate: TensorSpec,
    /// `[hidden, heads * head_dim]`.
    pub o: Linear,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads; query head `h` reads `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// RMS norm of each head of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Rotary position encoding.
    pub rope: Option<Rope>,
    /// Which keys a position sees.
    pub tiers: Tiers,
    /// Added to the sum of weights of the linear memory.
    pub eps: f32,
}

/// Which keys the query at position `t` sees, in a sequence of `n = t + 1` tokens. Each is seen once.
///
/// | `n` up to | keys |
/// | --- | --- |
/// | `full_until` | all |
/// | `dilated_until` | window, dilated, global |
/// | `linear_until` | window, global; the linear memory |
/// | no limit | window, global, hierarchy; the linear memory |
///
/// `window <= full_until <= dilated_until <= linear_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiers {
    /// Window: keys with `t - j < window`. Above 0.
    pub window: usize,
    /// See above.
    pub full_until: usize,
    /// See above.
    pub dilated_until: usize,
    /// See above.
    pub linear_until: usize,
    /// Dilated: for `l` in `1..=levels` the keys with `window * 2^(l-1) <= t - j < window * 2^l` and `j` a multiple of `2^l`.
    pub levels: usize,
    /// Global: keys with `j < global_first`.
    pub global_first: usize,
    /// Global: of the keys outside the window, as many with the largest scores, rounded to `floor(1024 s + 0.5)`; of equal
    /// scores the earlier. 0 without scores.
    pub global_top: usize,
    /// Hierarchy: for `l` below `hierarchy_levels` the means of keys, values and scores over aligned blocks of
    /// `hierarchy_block * 2^l` positions.
    pub hierarchy_block: usize,
    /// See above.
    pub hierarchy_levels: usize,
    /// Hierarchy: the number of latest blocks of a level that are seen, of those that lie outside the window.
    pub hierarchy_width: usize,
}

impl Tiers {
    /// The number of dilated levels that a position can see a key of.
    pub fn used_levels(&self) -> usize {
        if self.dilated_until <= self.full_until {
            return 0;
        }
        (1..=self.levels).take_while(|&level| self.dilated(level).0 < self.dilated_until).count()
    }

    /// The most keys that the last of `context` tokens sees: those of each kind, though a key may be of several.
    pub fn most_seen(&self, context: usize) -> usize {
        if context <= self.full_until {
            return context;
        }
        let outside = context.saturating_sub(self.window);
        let near = context.min(self.window);
        let global = outside.min(self.global_first).saturating_add(outside.min(self.global_top));
        let thinned = match context {
            _ if context <= self.dilated_until => (1..=self.used_levels())
                .map(|level| {
                    let (from, to) = self.dilated(level);
                    to.min(context).saturating_sub(from).div_ceil(1 << level)
                })
                .sum(),
            _ if context <= self.linear_until => 0,
            _ => self.hierarchy_levels.saturating_mul(self.hierarchy_width),
        };
        near.saturating_add(global).saturating_add(thinned)
    }

    /// The distances, from the first to before the second, of the dilated keys of a level.
    pub fn dilated(&self, level: usize) -> (usize, usize) {
        let far = |level: usize| {
            let factor = 1usize.checked_shl(level as u32).unwrap_or(usize::MAX);
            self.window.saturating_mul(factor).min(self.dilated_until)
        };
        (far(level.saturating_sub(1)), far(level))
    }
}

impl HybridAttention {
    /// The layer with tensors `PREFIX.q`, `k`, `v`, `o` with biases if `bias`, `PREFIX.context` if `context`, and
    /// `PREFIX.linear_gate`; with the epsilon `norm` of the norms `PREFIX.q_norm` and `PREFIX.k_norm`, if there are any.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        prefix: &str,
        hidden: usize,
        [heads, kv_heads, head_dim]: [usize; 3],
        bias: bool,
        norm: Option<f32>,
        rope: Option<Rope>,
        context: bool,
        tiers: Tiers,
    ) -> Self {
        let name = |name: &str| format!("{prefix}.{name}");
        let linear = |part: &str, rows, cols| Linear::new(&name(part), rows, cols, bias);
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        Self {
            q: linear("q", queries, hidden),
            k: linear("k", keys, hidden),
            v: linear("v", keys, hidden),
            context: context.then(|| Linear::new(&name("context"), kv_heads, hidden, false)),
            linear_gate: TensorSpec::new(name("linear_gate.weight"), [heads]),
            o: linear("o", hidden, queries),
            heads,
            kv_heads,
            head_dim,
            qk_norm: norm.map(|eps| QkNorm::of_heads(prefix, head_dim, eps)),
            rope,
            tiers: Tiers { global_top: if context { tiers.global_top } else { 0 }, ..tiers },
            eps: 1e-6,
        }
    }
}

describe!(HybridAttention, |parts| HybridAttention {
    q,
    k,
    v,
    context,
    linear_gate,
    o,
    qk_norm,
    heads: _,
    kv_heads: _,
    head_dim: _,
    rope: _,
    tiers: _,
    eps: _,
} => {
    parts.linear(Role::Query, q);
    parts.linear(Role::Key, k);
    parts.linear(Role::Value, v);
    if let Some(context) = context {
        parts.linear(Role::CellGate, context);
    }
    parts.vector(Role::Mix, linear_gate);
    parts.linear(Role::Out, o);
    if let Some(QkNorm { q, k, per_head: _ }) = qk_norm {
        parts.norm(q);
        parts.norm(k);
    }
});

impl Layer for HybridAttention {
    fn kind(&self) -> &'static str {
        "hybrid attention"
    }

    fn title(&self) -> &'static str {
        "hybrid attention"
    }

    fn components(&self) -> &'static [&'static str] {
        &["hybrid attention"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let text = super::grouped_heads(self.heads, self.kv_heads, self.head_dim);
        let Tiers { window, full_until, dilated_until, linear_until, .. } = self.tiers;
        text + &format!(
            ", window {window}, tiers up to {full_until}, {dilated_until} and {linear_until}"
        )
    }

    fn rope(&self) -> Option<&Rope> {
        self.rope.as_ref()
    }

    /// The tiers end early, so that a short sequence reaches the last.
    fn small(&self, to: &Small) -> Mixer {
        let dim = self.head_dim;
        let [heads, kv_heads] = to.grouped_heads(self.heads, self.kv_heads, dim);
        let (queries, keys) = (heads * dim, kv_heads * dim);
        let tiers = self.tiers;
        let until = |tier: usize, windows: usize| tier.min(to.window.saturating_mul(windows));
        Mixer::HybridAttention(Self {
            q: self.q.sized(queries, to.hidden),
            k: self.k.sized(keys, to.hidden),
            v: self.v.sized(keys, to.hidden),
            context: self.context.as_ref().map(|context| context.sized(kv_heads, to.hidden)),
            linear_gate: self.linear_gate.sized([heads]),
            o: self.o.sized(to.hidden, queries),
            heads,
            kv_heads,
            head_dim: dim,
            qk_norm: self.qk_norm.clone(),
            rope: self.rope.clone(),
            tiers: Tiers {
                window: until(tiers.window, 1),
                full_until: until(tiers.full_until, 2),
                dilated_until: until(tiers.dilated_until, 4),
                linear_until: until(tiers.linear_until, 6),
                global_first: until(tiers.global_first, 1),
                global_top: until(tiers.global_top, 1),
                hierarchy_block: until(tiers.hierarchy_block, 1),
                ..tiers
            },
            eps: self.eps,
        })
    }
}
