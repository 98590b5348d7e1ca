//! `hybrid_attention`: softmax attention over a bounded number of keys, chosen by the position of the query, and a linear memory of all
//! that have left the window.
//!
//! `o_t = (1 - g) sum_j softmax_j(scale q_t . k_j + s_j) v_j + g S^T phi(q_t) / (z . phi(q_t) + eps)` over the keys that [`Tiers`] shows to
//! `t`, with `S = sum phi(k_j) v_j^T`, `z = sum phi(k_j)` over `j` with `t - j >= window`, `g = sigmoid(linear_gate)`, `phi(x) = elu(x) + 1`,
//! that is `x + 1` above 0 and `e^x` below. `g` is 0 up to `dilated_until` tokens, and where no key has left the window. See
//! [`HybridAttention`](kinglet_models::HybridAttention) for the sources.
//!
//! All state is of constant size ([`HybridLayout`]). Where a key lies follows from its position and that of the first token of a run, so
//! no positions are stored but those of the chosen keys. `S` and `z` are sums that never decay; each is a pair of numbers, of which
//! the second holds what the first has no room for.

use kinglet_models::{TensorSpec, Tiers};

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, Slice, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// Attention in tiers, with grouped key/value heads.
#[derive(Clone, Debug, PartialEq)]
pub struct HybridAttention {
    /// `[T, heads * head_dim]`, normed and rotated.
    pub queries: Slice,
    /// `[T, kv_heads * head_dim]`, normed and rotated.
    pub keys: Slice,
    /// `[T, kv_heads * head_dim]`.
    pub values: Slice,
    /// `[T, kv_heads]`: `s`; `None` for 0.
    pub scores: Option<Slice>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// Which keys a query sees.
    pub tiers: Tiers,
    /// `[heads]`.
    pub linear_gate: TensorSpec,
    /// Added to the sum of weights of the linear memory.
    pub eps: f32,
    /// `[kv_heads, head_state]`, see [`HybridLayout`].
    pub state: StateId,
    /// `[T, heads * head_dim]`.
    pub output: BufferId,
}

/// Blocks of a level that may become complete in a run without taking the place of a mean that the run's first query sees.
pub const DIRECT: usize = 4;

/// Where the state of a key/value head holds what: a table of `rows` rows, each a key, a value and a score, then a few numbers, then the
/// linear memory.
///
/// Keys are `[rows, head_dim]`, values follow, then scores `[rows]`; then for each chosen key its position, and the number of
/// tokens that the state has seen, as two numbers `a * 65536 + b`, both exact in f32; then `[head_dim, head_dim + 1]`, `S` and `z` side by
/// side, twice: what it is, and what the first has no room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HybridLayout {
    /// `head_dim`.
    pub dim: usize,
    /// Rows of the ring of the last keys: key `j` is row `j % ring`.
    pub ring: usize,
    /// For each dilated level the first row, and the number of rows, of a ring of its keys that the main ring has dropped: key `j` of
    /// level `l` from 1 on is row `first + (j >> l) % count`.
    pub levels: Vec<(usize, usize)>,
    /// First row of the keys at the first positions.
    pub first: usize,
    /// First row of the chosen keys.
    pub top: usize,
    /// The number of chosen keys.
    pub top_count: usize,
    /// First row of the rings of means, one for each level of the hierarchy: block `b` of level `l` is row
    /// `means + l * mean_ring + b % mean_ring`.
    pub means: usize,
    /// Rows of such a ring: those that are seen, at least two, since the mean of a level is the mean of two of the level before, and
    /// [`DIRECT`] more.
    pub mean_ring: usize,
    /// First of two rows: the sum over the block of level 0 that is not complete, and what it has no room for.
    pub open: usize,
    /// All rows.
    pub rows: usize,
}

impl HybridLayout {
    /// The layout for heads of width `dim`.
    pub fn new(tiers: &Tiers, dim: usize) -> Self {
        let ring = tiers.window.max(tiers.full_until);
        let mut rows = ring;
        let mut take = |count: usize| {
            let first = rows;
            rows = rows.saturating_add(count);
            first
        };
        let levels = (1..=tiers.used_levels()).map(|level| {
            // The distances that a key may have when the next run begins.
            let distances = tiers.dilated(level).1.saturating_sub(ring).saturating_sub(1);
            // No level is used whose step exceeds all distances.
            let count = distances.div_ceil(1 << level);
            (take(count), count)
        });
        let levels = levels.collect();
        let first = take(tiers.global_first);
        let top = take(tiers.global_top);
        let mean_ring = match tiers.hierarchy_levels.min(tiers.hierarchy_width) {
            0 => 0,
            _ => tiers.hierarchy_width.max(2).saturating_add(DIRECT),
        };
        let means = take(mean_ring.saturating_mul(tiers.hierarchy_levels));
        let open = take(2);
        let top_count = tiers.global_top;
        Self { dim, ring, levels, first, top, top_count, means, mean_ring, open, rows }
    }

    /// Element of the first value.
    pub fn values(&self) -> usize {
        self.rows.saturating_mul(self.dim)
    }

    /// Element of the first score.
    pub fn scores(&self) -> usize {
        self.values().saturating_mul(2)
    }

    /// Element of the first position.
    pub fn positions(&self) -> usize {
        self.scores().saturating_add(self.rows)
    }

    /// Element of the number of tokens.
    pub fn seen(&self) -> usize {
        self.positions().saturating_add(2 * self.top_count)
    }

    /// Element of the linear memory.
    pub fn memory(&self) -> usize {
        self.seen().saturating_add(2)
    }

    /// Elements of `S` and `z`.
    pub fn memory_len(&self) -> usize {
        self.dim * (self.dim + 1)
    }

    /// Elements of a head's state.
    pub fn head_state(&self) -> usize {
        self.memory().saturating_add(2 * self.memory_len())
    }
}

impl HybridAttention {
    /// Where the state of a head holds what.
    pub fn layout(&self) -> HybridLayout {
        HybridLayout::new(&self.tiers, self.head_dim)
    }

    /// For each level of the hierarchy the most blocks that become complete within a run.
    pub fn blocks(&self, tokens: usize) -> Vec<usize> {
        (0..self.mean_levels()).map(|level| tokens.div_ceil(self.block_size(level))).collect()
    }

    /// Elements of the scratch memory of a run of `tokens` tokens, by part: the chosen keys of each token and key/value head; the means of
    /// `blocks` blocks; what each head reads in the linear memory, and the sum of its weights.
    pub fn passed(&self, tokens: usize, blocks: usize) -> [usize; 3] {
        [
            tokens * self.kv_heads * self.tiers.global_top,
            blocks * self.kv_heads * (2 * self.head_dim + 1),
            tokens * self.heads * (self.head_dim + 1),
        ]
    }

    /// The places of means that the kernels need for runs with `tokens` tokens in all, each of more than [`DIRECT`]. A block that becomes
    /// complete at row `r` of the step, in a run that begins at row `s`, has the place `r / size + s / (DIRECT + 1)` of its level, which no
    /// other has.
    pub fn places(&self, tokens: usize) -> usize {
        let places = |level: usize| tokens / self.block_size(level) + tokens / (DIRECT + 1) + 2;
        (0..self.mean_levels()).map(places).sum()
    }

    /// Levels of the hierarchy; 0 where no block is seen.
    pub fn mean_levels(&self) -> usize {
        if self.tiers.hierarchy_width == 0 { 0 } else { self.tiers.hierarchy_levels }
    }

    /// Positions of a block of a level of the hierarchy.
    pub fn block_size(&self, level: usize) -> usize {
        let factor = 1usize.checked_shl(level as u32).unwrap_or(usize::MAX);
        self.tiers.hierarchy_block.saturating_mul(factor).max(1)
    }
}

impl Describe for HybridAttention {
    fn name(&self) -> &'static str {
        "hybrid_attention"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        for input in [self.queries, self.keys, self.values].into_iter().chain(self.scores) {
            if !uses.reads.contains(&input.buffer) {
                uses.reads.push(input.buffer);
            }
        }
        uses.writes.push(self.output);
        uses.vectors.push(&self.linear_gate);
    }

    /// What a run reads and what it changes are different dispatches.
    fn states(&self) -> Vec<SteppedState> {
        vec![SteppedState { state: self.state, double_buffer: DoubleBuffer::Nothing }]
    }

    /// It drops keys by itself.
    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths::NONE
    }

    fn scratch(&self, cut: &Cut) -> Scratch {
        let passed = self.passed(cut.tokens, self.places(cut.tokens));
        Scratch { tokens: passed.iter().sum(), ..Scratch::NONE }
    }

    /// The linear memory goes from token to token: for each, a thread adds to a column and reads it for all query heads.
    fn loop_turns(&self) -> usize {
        self.head_dim * (self.heads / self.kv_heads.max(1)).div_ceil(4).max(1)
    }

    /// Scores with the keys that are seen, and the sum of their values; keys that join the linear memory, and what queries read of it.
    fn work(&self, context: usize) -> Work {
        let seen = self.tiers.most_seen(context);
        let memory = self.head_dim * (self.head_dim + 1);
        let (joins, reads) = (context > self.tiers.window, context > self.tiers.dilated_until);
        let heads = self.kv_heads * usize::from(joins) + self.heads * usize::from(reads);
        Work {
            attention: flops([4, self.heads, self.head_dim, seen]),
            scan: flops([2, heads, memory]),
        }
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
