//! Attention at several resolutions: over the positions so far, over means of pairs, of fours, and so on.

use crate::spec::{Linear, TensorSpec};

use super::{Layer, Mixer, Module, QkNorm, Role, Rope, Section, Small};

/// Softmax attention at several levels. Level `l` sees aligned blocks of `2^l` positions: of every block with positions up to the query's, the
/// mean of its keys and that of its values over these positions. `y = sum_l w_l y_l` with `w = softmax(level_logits[head])`. (Means of
/// aligned blocks as keys: Zhu and Soricut, "H-Transformer-1D", 2021, arXiv:2107.11906, section 4; here every level sees all of the past.)
#[derive(Clone, Debug, PartialEq)]
pub struct MultiLevelAttention {
    /// `[heads * head_dim, hidden]`.
    pub q: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: Linear,
    /// `[hidden, heads * head_dim]`.
    pub o: Linear,
    /// `[heads, levels]`.
    pub level_logits: TensorSpec,
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
    /// For each level the window: the query at `t` sees the blocks whose last position is above `t - window`; `None` for all.
    pub windows: Vec<Option<usize>>,
}

impl MultiLevelAttention {
    /// The layer with tensors `PREFIX.q`, `k`, `v`, `o`, with biases if `bias`, and `PREFIX.level_logits`; with the epsilon `norm` of the
    /// norms `PREFIX.q_norm` and `PREFIX.k_norm`, if there are any; with a level for each of `windows`.
    pub fn new(
        prefix: &str,
        hidden: usize,
        [heads, kv_heads, head_dim]: [usize; 3],
        bias: bool,
        norm: Option<f32>,
        rope: Option<Rope>,
        windows: Vec<Option<usize>>,
    ) -> Self {
        let name = |name: &str| format!("{prefix}.{name}");
        let linear = |part: &str, rows, cols| Linear::new(&name(part), rows, cols, bias);
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        Self {
            q: linear("q", queries, hidden),
            k: linear("k", keys, hidden),
            v: linear("v", keys, hidden),
            o: linear("o", hidden, queries),
            level_logits: TensorSpec::new(name("level_logits.weight"), [heads, windows.len()]),
            heads,
            kv_heads,
            head_dim,
            qk_norm: norm.map(|eps| QkNorm::of_heads(prefix, head_dim, eps)),
            rope,
            windows,
        }
    }
}

describe!(MultiLevelAttention, |parts| MultiLevelAttention {
    q,
    k,
    v,
    o,
    level_logits,
    qk_norm,
    heads: _,
    kv_heads: _,
    head_dim: _,
    rope: _,
    windows: _,
} => {
    parts.linear(Role::Query, q);
    parts.linear(Role::Key, k);
    parts.linear(Role::Value, v);
    parts.vector(Role::Mix, level_logits);
    parts.linear(Role::Out, o);
    if let Some(QkNorm { q, k, per_head: _ }) = qk_norm {
        parts.norm(q);
        parts.norm(k);
    }
});

impl Layer for MultiLevelAttention {
    fn kind(&self) -> &'static str {
        "multi-level attention"
    }

    fn title(&self) -> &'static str {
        "multi-level attention"
    }

    fn components(&self) -> &'static [&'static str] {
        &["multi-level attention"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let mut text = super::grouped_heads(self.heads, self.kv_heads, self.head_dim);
        text += &format!(", {}", super::plural(self.windows.len(), "level"));
        if self.windows.iter().any(Option::is_some) {
            let window = |window: &Option<usize>| window.unwrap_or(0).to_string();
            let windows: Vec<String> = self.windows.iter().map(window).collect();
            text += &format!(", windows {}", windows.join(", "));
        }
        text
    }

    fn rope(&self) -> Option<&Rope> {
        self.rope.as_ref()
    }

    fn small(&self, to: &Small) -> Mixer {
        let dim = self.head_dim;
        let [heads, kv_heads] = to.grouped_heads(self.heads, self.kv_heads, dim);
        let (queries, keys) = (heads * dim, kv_heads * dim);
        let windows = self.windows.iter().map(|own| own.map(|window| window.min(to.window)));
        Mixer::MultiLevelAttention(Self {
            q: self.q.sized(queries, to.hidden),
            k: self.k.sized(keys, to.hidden),
            v: self.v.sized(keys, to.hidden),
            o: self.o.sized(to.hidden, queries),
            level_logits: self.level_logits.sized([heads, self.windows.len()]),
            heads,
            kv_heads,
            head_dim: dim,
            qk_norm: self.qk_norm.clone(),
            rope: self.rope.clone(),
            windows: windows.collect(),
        })
    }
}
