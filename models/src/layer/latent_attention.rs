//! Attention over latents: one short vector per position, from which the keys and values of all heads follow.

use crate::spec::{Linear, Norm};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", arXiv:2405.04434, 2024, section 2.1).
///
/// For head `h`, with `[qn; qr] = q_h(u)`, `[c; kr] = kv_down(u)`, the latent `c = norm(c)`, and `qr` and `kr` rotated:
///
/// ```text
/// score_ij = scale * (qn_i . key_up_h c_j + qr_i . kr_j),    o_i = value_up_h (sum_j softmax_j(score_ij) c_j)
/// ```
///
/// `kr` is common to all heads. Keys and values are never expanded: since `qn . (K c) = (K^T qn) . c`, queries are multiplied by
/// `key_up` in place of the latents, and `value_up` comes after the sum. So a position holds `rank + rope_dim` numbers for all heads.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentAttention {
    /// From the residual stream to `[qn; qr]` of all heads, `heads * (nope_dim + rope_dim)` rows, head by head.
    pub q: LatentQueries,
    /// From the residual stream to `[c; kr]`, `[rank + rope_dim, hidden]`.
    pub kv_down: Linear,
    /// Of the latent, `rank` wide.
    pub kv_norm: Norm,
    /// For each head, from the latent to its key: `[nope_dim, rank]`, or the transpose. Without biases.
    pub key_up: Vec<Linear>,
    /// Whether `key_up` is stored as its transpose, `[rank, nope_dim]`, as queries are multiplied by it (mlx-lm's `embed_q`).
    pub key_up_transposed: bool,
    /// For each head, from the latent to its value, `[value_dim, rank]`. Without biases.
    pub value_up: Vec<Linear>,
    /// `[hidden, heads * value_dim]`.
    pub o: Linear,
    /// Heads.
    pub heads: usize,
    /// Width of a latent (`kv_lora_rank`).
    pub rank: usize,
    /// Width of the part of queries that meets the latent (`qk_nope_head_dim`).
    pub nope_dim: usize,
    /// Width of the part that meets the key common to all heads (`qk_rope_head_dim`); 0 for none.
    pub rope_dim: usize,
    /// Width of a head's value (`v_head_dim`).
    pub value_dim: usize,
    /// Factor on scores before the softmax; `1 / sqrt(nope_dim + rope_dim)` nearly everywhere.
    pub scale: f32,
    /// Rotary position encoding of the last `rope_dim` elements; `None` for NoPE (Kimi Linear).
    pub rope: Option<Rope>,
}

/// How latent attention makes its queries.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a model has few of them")]
pub enum LatentQueries {
    /// `[rows, hidden]`.
    Full(Linear),
    /// `up(norm(down(u)))` (`q_lora_rank`).
    LowRank {
        /// `[rank of queries, hidden]`.
        down: Linear,
        /// As wide.
        norm: Norm,
        /// `[rows, rank of queries]`.
        up: Linear,
    },
}

describe!(LatentAttention, |parts| LatentAttention {
    q,
    kv_down,
    kv_norm,
    key_up,
    value_up,
    o,
    key_up_transposed: _,
    heads: _,
    rank: _,
    nope_dim: _,
    rope_dim: _,
    value_dim: _,
    scale: _,
    rope: _,
} => {
    match q {
        LatentQueries::Full(q) => parts.linear(Role::Query, q),
        LatentQueries::LowRank { down, norm, up } => {
            parts.linear(Role::Query, down);
            parts.norm(norm);
            parts.linear(Role::Query, up);
        }
    }
    parts.linear(Role::Latent, kv_down);
    parts.norm(kv_norm);
    for up in key_up {
        parts.linear(Role::Key, up);
    }
    for up in value_up {
        parts.linear(Role::Value, up);
    }
    parts.linear(Role::Out, o);
});

impl LatentAttention {
    /// Width of a query of a head.
    pub fn query_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    /// Width of what the cache holds for a position.
    pub fn key_dim(&self) -> usize {
        self.rank + self.rope_dim
    }
}

impl Layer for LatentAttention {
    fn kind(&self) -> &'static str {
        "latent attention"
    }

    fn title(&self) -> &'static str {
        "multi-head latent attention"
    }

    fn components(&self) -> &'static [&'static str] {
        &["attention"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let mut text = format!(
            "{} of {}, values of {}, latent {}",
            super::plural(self.heads, "head"),
            self.query_dim(),
            self.value_dim,
            self.rank
        );
        if self.rope_dim > 0 {
            text += &format!(" + {}", self.rope_dim);
        }
        if let LatentQueries::LowRank { down, .. } = &self.q {
            text += &format!(", queries of rank {}", down.weight.rows);
        }
        match &self.rope {
            None => text += ", no positions",
            Some(rope) if rope.interleaved => text += ", rope (interleaved)",
            Some(_) => text += ", rope",
        }
        text
    }

    fn rope(&self) -> Option<&Rope> {
        self.rope.as_ref()
    }

    fn small(&self, to: &Small) -> Mixer {
        // Enough heads for a row of the output projection to be whole groups of any quantized format.
        let least = (to.width / 2).div_ceil(self.value_dim.max(1)).max(to.heads);
        let heads = self.heads.min(least);
        let rows = heads * self.query_dim();
        let q = match &self.q {
            LatentQueries::Full(q) => LatentQueries::Full(q.sized(rows, to.hidden)),
            LatentQueries::LowRank { down, norm, up } => LatentQueries::LowRank {
                down: down.sized(down.weight.rows, to.hidden),
                norm: norm.clone(),
                up: up.sized(rows, down.weight.rows),
            },
        };
        let first = |parts: &[Linear]| parts.iter().take(heads).cloned().collect();
        Mixer::LatentAttention(Self {
            q,
            kv_down: self.kv_down.sized(self.key_dim(), to.hidden),
            key_up: first(&self.key_up),
            value_up: first(&self.value_up),
            o: self.o.sized(to.hidden, heads * self.value_dim),
            heads,
            ..self.clone()
        })
    }
}
