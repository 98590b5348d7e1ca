//! `attention`: queries and keys are normed, clipped and rotated, keys and values join the cache, and each query
//! attends to the cache up to its own position.
//!
//! `o_i = sum_j softmax_j(scale * q_i . k_j) v_j` over `j` in `max(0, i - window + 1)..=i` (Vaswani
//! et al., 2017, section 3.2.1), and over `j < sinks` (Xiao et al., "Efficient Streaming Language
//! Models with Attention Sinks", 2024; positions are not renumbered).

use kinglet_models::{Norm, QkNorm, Rope};

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, Slice, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// Number of workgroups to aim for in a decode step's attention.
const ATTENTION_GROUPS: usize = 256;
/// Most pieces of a cache: combining more costs more than they save.
const MOST_PIECES: usize = 64;

/// Softmax attention with grouped key/value heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// `[T, heads * head_dim]`.
    pub queries: Slice,
    /// `[T, kv_heads * head_dim]`.
    pub keys: Slice,
    /// The values.
    pub values: AttentionValues,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head's query and key.
    pub head_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// RMS norm on queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Queries, keys and values are clamped to `[-clip, clip]`.
    pub clip: Option<f32>,
    /// Rotary position encoding.
    pub rope: Option<Rope>,
    /// The first rotated element of a head.
    pub rope_start: usize,
    /// The number of last positions that a query attends to, including its own; `None` for all.
    pub window: Option<usize>,
    /// The number of first positions that every later query attends to, whatever the window.
    pub sinks: usize,
    /// The cache of keys and values.
    pub cache: StateId,
    /// `[T, heads * value_dim]`.
    pub output: BufferId,
}

/// What attention sums up.
#[derive(Clone, Debug, PartialEq)]
pub enum AttentionValues {
    /// `[T, kv_heads * value_dim]`: columns of their own, in the buffer of the keys.
    Own(Slice),
    /// The first `width` elements of the keys, one latent for both (DeepSeek-AI, "DeepSeek-V2", arXiv:2405.04434, 2024, section
    /// 2.1.2). The cache holds keys alone.
    Latent {
        /// Width of a value, at most that of a key.
        width: usize,
        /// RMS norm of these elements, before the rotation.
        norm: Option<Norm>,
    },
}

/// Which positions a token attends to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AttentionSpan {
    /// The number of last positions, including its own; `None` for all.
    pub window: Option<usize>,
    /// The number of first positions, whatever the window.
    pub sinks: usize,
}

impl AttentionSpan {
    /// The first position in the window of a token at `position`.
    pub fn oldest(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The positions that a token at `position` attends to besides its own: the number of sinks
    /// that its window doesn't reach, and the first position in its window.
    pub fn held(self, position: usize) -> (usize, usize) {
        let first = self.oldest(position).min(position);
        (self.sinks.min(first), first)
    }

    /// The number of these positions.
    pub fn count(self, position: usize) -> usize {
        let (sinks, first) = self.held(position);
        sinks + position - first
    }
}

impl Attention {
    /// Width of a head's value.
    pub fn value_dim(&self) -> usize {
        match &self.values {
            AttentionValues::Own(values) => values.width / self.kv_heads.max(1),
            AttentionValues::Latent { width, .. } => *width,
        }
    }

    /// Whether values are elements of keys.
    pub fn is_latent(&self) -> bool {
        matches!(self.values, AttentionValues::Latent { .. })
    }

    /// Which positions a query attends to.
    pub fn span(&self) -> AttentionSpan {
        AttentionSpan { window: self.window, sinks: self.sinks }
    }

    /// The number of pieces that the cache is split into for up to `few` tokens, if kernels can
    /// address `max_bytes` of a buffer.
    pub fn pieces(&self, few: usize, max_bytes: u64) -> usize {
        let piece = 4 * (few * self.heads * (self.value_dim() + 2)) as u64;
        let fit = usize::try_from(max_bytes / piece).unwrap_or(usize::MAX);
        ATTENTION_GROUPS.div_ceil(self.kv_heads).min(MOST_PIECES).min(fit).max(1)
    }
}

impl Describe for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend([self.queries.buffer, self.keys.buffer]);
        uses.writes.push(self.output);
        if let Some(qk) = &self.qk_norm {
            uses.norm(&qk.q);
            uses.norm(&qk.k);
        }
        match &self.values {
            AttentionValues::Own(values) => uses.reads.push(values.buffer),
            AttentionValues::Latent { norm, .. } => {
                norm.iter().for_each(|norm| uses.norm(norm));
            }
        }
    }

    fn states(&self) -> Vec<SteppedState> {
        vec![SteppedState { state: self.cache, double_buffer: DoubleBuffer::Nothing }]
    }

    fn limit_window(&mut self, window: usize, sinks: usize) -> Option<StateId> {
        if self.window.is_some_and(|own| own <= window) {
            return None;
        }
        (self.window, self.sinks) = (Some(window), sinks);
        Some(self.cache)
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths { queries: self.heads * self.head_dim, ..Widths::NONE }
    }

    /// Few tokens attend to pieces of the cache: each piece gives `value_dim` sums of values, the
    /// largest score and the sum of weights.
    fn scratch(&self, cut: &Cut) -> Scratch {
        let pieces = self.pieces(cut.few, cut.max_bytes);
        Scratch { tokens: cut.few * self.heads * pieces * (self.value_dim() + 2), ..Scratch::NONE }
    }

    /// Scores with every position that is seen, and the sum of their values.
    fn work(&self, context: usize) -> Work {
        let seen = context.min(1) + self.span().count(context.saturating_sub(1));
        let widths = self.head_dim + self.value_dim();
        Work { attention: flops([2, self.heads, widths, seen]), ..Work::NONE }
    }

    /// Tiles process a chunk of tokens at a time.
    fn loop_turns(&self) -> usize {
        1
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
