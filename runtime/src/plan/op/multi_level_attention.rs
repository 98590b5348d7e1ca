//! `multi_level_attention`: keys and values join the cache, and each query attends to it at several levels: to means over aligned blocks of
//! `2^l` positions.
//!
//! `o_t = sum_l w_l sum_b softmax_b(scale q_t . mean_b(k)) mean_b(v)` with `w = softmax(level_logits[head])`, where `b` are the blocks of level `l`
//! with positions up to `t`, and the means are over these; with a window, those whose last position is above `t - window`. See
//! [`MultiLevelAttention`](kinglet_models::MultiLevelAttention) for the source.
//!
//! The logit of a mean is the mean of the logits, and the weight of a block's mean is shared by the values of the block. So only keys and
//! values of positions are stored, and
//! `o_t = sum_j (sum_l w_l p_l[b(j)] / |b(j)|) v_j`, where `p_l` is the softmax over the means of `q_t . k_j`.

use kinglet_models::TensorSpec;

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, Slice, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// Attention at several levels, with grouped key/value heads.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiLevelAttention {
    /// `[T, heads * head_dim]`, normed and rotated.
    pub queries: Slice,
    /// `[T, kv_heads * head_dim]`, normed and rotated.
    pub keys: Slice,
    /// `[T, kv_heads * head_dim]`.
    pub values: Slice,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// For each level its window; `None` for all positions.
    pub windows: Vec<Option<usize>>,
    /// `[heads, levels]`.
    pub level_logits: TensorSpec,
    /// The cache of keys and values.
    pub cache: StateId,
    /// `[T, heads * head_dim]`.
    pub output: BufferId,
}

/// The number of last positions that some level of [`MultiLevelAttention`] with these windows sees; `None` for all.
pub fn multi_level_window(windows: &[Option<usize>]) -> Option<usize> {
    let reach = |(level, window): (usize, &Option<usize>)| {
        // The block that begins before the window is seen as a whole.
        let block = 1usize.checked_shl(level as u32).unwrap_or(usize::MAX);
        window.map(|window| window.saturating_add(block - 1))
    };
    let reaches = windows.iter().enumerate().map(reach);
    reaches.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max())
}

impl Describe for MultiLevelAttention {
    fn name(&self) -> &'static str {
        "multi_level_attention"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        for input in [self.queries, self.keys, self.values] {
            if !uses.reads.contains(&input.buffer) {
                uses.reads.push(input.buffer);
            }
        }
        uses.writes.push(self.output);
        uses.vectors.push(&self.level_logits);
    }

    fn states(&self) -> Vec<SteppedState> {
        vec![SteppedState { state: self.cache, double_buffer: DoubleBuffer::Nothing }]
    }

    /// Means over blocks that lost positions would be others, so its levels' own windows stay as they are.
    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths::NONE
    }

    fn scratch(&self, _cut: &Cut) -> Scratch {
        Scratch::NONE
    }

    /// A thread goes through the elements of keys and values, one token as another.
    fn loop_turns(&self) -> usize {
        1
    }

    /// Scores with the blocks of each level, and the sums of their values; the means are sums of all positions that are seen.
    fn work(&self, context: usize) -> Work {
        let seen = |window: &Option<usize>| window.map_or(context, |window| window.min(context));
        let levels = self.windows.iter().enumerate().map(|(level, window)| {
            let block = 1usize.checked_shl(level as u32).unwrap_or(usize::MAX);
            let scores = flops([4, self.heads, self.head_dim, seen(window).div_ceil(block)]);
            let means =
                if level == 0 { 0 } else { flops([2, self.kv_heads, self.head_dim, seen(window)]) };
            scores.saturating_add(means)
        });
        Work { attention: levels.fold(0, u64::saturating_add), ..Work::NONE }
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
