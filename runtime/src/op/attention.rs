//! `attention`: queries and keys are normed, clipped and rotated, keys and values join the cache, and each query
//! attends to the cache up to its own position.
//!
//! `o_i = sum_j softmax_j(scale * q_i . k_j) v_j` over `j` in `max(0, i - window + 1) ..= i`
//! (Vaswani et al., 2017, section 3.2.1).

use kinglet_models::{QkNorm, Rope};

use super::{BufferId, StateId, Uses};

/// Softmax attention with grouped key/value heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// `[T, (heads + 2 * kv_heads) * head_dim]`: queries, keys, values.
    pub input: BufferId,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// RMS norm on queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Queries, keys and values are clamped to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// Rotary position encoding.
    pub rope: Option<Rope>,
    /// Positions that a query sees, its own included.
    pub window: Option<usize>,
    /// Keys and values of the positions before.
    pub cache: StateId,
    /// `[T, heads * head_dim]`.
    pub output: BufferId,
}

impl Attention {
    pub(super) fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
        uses.states.push(self.cache);
        if let Some(qk) = &self.qk_norm {
            uses.norm(&qk.q);
            uses.norm(&qk.k);
        }
    }
}
