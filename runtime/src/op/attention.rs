//! `attention`: queries and keys are normed, clipped and rotated, keys and values join the cache, and each query
//! attends to the cache up to its own position.
//!
//! `o_i = sum_j softmax_j(scale * q_i . k_j) v_j` over `j` in `max(0, i - window + 1) ..= i`
//! (Vaswani et al., 2017, section 3.2.1), and over `j < sinks` (Xiao et al., "Efficient Streaming Language Models with Attention
//! Sinks", 2024; positions stay what they are).

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
    /// The last positions that a query sees, its own included; all if not given.
    pub window: Option<usize>,
    /// The first positions, which every query behind them sees whatever the window.
    pub sinks: usize,
    /// Keys and values of the positions before.
    pub cache: StateId,
    /// `[T, heads * head_dim]`.
    pub output: BufferId,
}

/// Which positions a token sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sight {
    /// The last ones, its own included; all if not given.
    pub window: Option<usize>,
    /// The first ones, whatever the window.
    pub sinks: usize,
}

impl Sight {
    /// The first position in the window of a token at `position`.
    pub fn oldest(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The positions that a token at `position` sees besides its own: sinks that its window doesn't reach, and the first of those in its
    /// window.
    pub fn held(self, position: usize) -> (usize, usize) {
        let first = self.oldest(position).min(position);
        (self.sinks.min(first), first)
    }

    /// How many they are.
    pub fn count(self, position: usize) -> usize {
        let (sinks, first) = self.held(position);
        sinks + position - first
    }
}

impl Attention {
    /// Which positions a query sees.
    pub fn sight(&self) -> Sight {
        Sight { window: self.window, sinks: self.sinks }
    }

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
