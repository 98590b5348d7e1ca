//! Attention without a softmax that weighs all of the past, normalised by the sum of its weights.

use crate::spec::Linear;

use super::{Layer, Mixer, Module, QkNorm, Role, Rope, Section, Small};

/// Normalised linear attention (Katharopoulos et al., "Transformers are RNNs", 2020, arXiv:2006.16236, eq. 16 to 20) with grouped
/// key/value heads.
///
/// Queries and keys go through: projection and bias, `qk_norm`, `rope`, `phi(x) = elu(x) + 1`. Then, for each key/value head,
/// `S = S + phi(k) v^T`, `z = z + phi(k)`, and for each of its query heads `y = S^T phi(q) / (z . phi(q) + eps)`; then `o`. Nothing in `S`
/// and `z` decays.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelAttention {
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
    /// RMS norm of each head of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Rotary position encoding.
    pub rope: Option<Rope>,
    /// Added to the sum of weights.
    pub eps: f32,
}

impl KernelAttention {
    /// The layer with tensors `PREFIX.q`, `k`, `v` and `o`, with biases if `bias`; with the epsilon `norm` of the norms `PREFIX.q_norm` and
    /// `PREFIX.k_norm`, if there are any.
    pub fn new(
        prefix: &str,
        hidden: usize,
        [heads, kv_heads, head_dim]: [usize; 3],
        bias: bool,
        norm: Option<f32>,
        rope: Option<Rope>,
    ) -> Self {
        let name = |name: &str| format!("{prefix}.{name}");
        let linear = |part: &str, rows, cols| Linear::new(&name(part), rows, cols, bias);
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        Self {
            q: linear("q", queries, hidden),
            k: linear("k", keys, hidden),
            v: linear("v", keys, hidden),
            o: linear("o", hidden, queries),
            heads,
            kv_heads,
            head_dim,
            qk_norm: norm.map(|eps| QkNorm::of_heads(prefix, head_dim, eps)),
            rope,
            eps: 1e-6,
        }
    }
}

describe!(KernelAttention, |parts| KernelAttention {
    q,
    k,
    v,
    o,
    qk_norm,
    heads: _,
    kv_heads: _,
    head_dim: _,
    rope: _,
    eps: _,
} => {
    parts.linear(Role::Query, q);
    parts.linear(Role::Key, k);
    parts.linear(Role::Value, v);
    parts.linear(Role::Out, o);
    if let Some(QkNorm { q, k, per_head: _ }) = qk_norm {
        parts.norm(q);
        parts.norm(k);
    }
});

impl Layer for KernelAttention {
    fn kind(&self) -> &'static str {
        "kernel attention"
    }

    fn title(&self) -> &'static str {
        "normalised linear attention"
    }

    fn components(&self) -> &'static [&'static str] {
        &["kernel attention"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        super::grouped_heads(self.heads, self.kv_heads, self.head_dim)
    }

    fn rope(&self) -> Option<&Rope> {
        self.rope.as_ref()
    }

    fn small(&self, to: &Small) -> Mixer {
        let dim = self.head_dim;
        let [heads, kv_heads] = to.grouped_heads(self.heads, self.kv_heads, dim);
        let (queries, keys) = (heads * dim, kv_heads * dim);
        Mixer::KernelAttention(Self {
            q: self.q.sized(queries, to.hidden),
            k: self.k.sized(keys, to.hidden),
            v: self.v.sized(keys, to.hidden),
            o: self.o.sized(to.hidden, queries),
            heads,
            kv_heads,
            head_dim: dim,
            qk_norm: self.qk_norm.clone(),
            rope: self.rope.clone(),
            eps: self.eps,
        })
    }
}
