//! `kernel_attention`: attention without a softmax over all of the past, normalised by the sum of its weights.
//!
//! With `phi(x) = elu(x) + 1`, that is `x + 1` for `x > 0` and else `e^x`, for each key/value head `S = S + phi(k) v^T`,
//! `z = z + phi(k)`, and for each of its query heads `y = S^T phi(q) / (z . phi(q) + eps)` (Katharopoulos et al., "Transformers are RNNs",
//! 2020, arXiv:2006.16236, eq. 16 to 20; the chunkwise form follows by unrolling the sums over a chunk). Nothing decays, so both sums are
//! kept with what their additions rounded off (Neumaier, 1974): in plain f32 they are off by 2e-2 after 16 million tokens.

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, Slice, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// Normalised linear attention with grouped key/value heads.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelAttention {
    /// `[T, heads * head_dim]`, before `phi`.
    pub queries: Slice,
    /// `[T, kv_heads * head_dim]`, before `phi`, in the buffer of the queries.
    pub keys: Slice,
    /// `[T, kv_heads * value_dim]`.
    pub values: Slice,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of queries and keys of a head.
    pub head_dim: usize,
    /// Added to the sum of weights.
    pub eps: f32,
    /// `[kv_heads, 2 * head_dim * value_dim + 2 * head_dim]`: `S` by rows of keys, what its additions rounded off, `z`, and the same.
    pub state: StateId,
    /// `y`, `[T, heads * value_dim]`.
    pub output: BufferId,
}

impl KernelAttention {
    /// Width of values of a head.
    pub fn value_dim(&self) -> usize {
        self.values.width / self.kv_heads.max(1)
    }

    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Elements of a key/value head's sums: `S` and `z`.
    pub fn sums(&self) -> usize {
        self.head_dim * (self.value_dim() + 1)
    }

    /// Elements of a key/value head's state: the sums, and what they rounded off.
    pub fn head_state(&self) -> usize {
        2 * self.sums()
    }
}

impl Describe for KernelAttention {
    fn name(&self) -> &'static str {
        "kernel_attention"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        for slice in [self.queries, self.keys, self.values] {
            if !uses.reads.contains(&slice.buffer) {
                uses.reads.push(slice.buffer);
            }
        }
        uses.writes.push(self.output);
    }

    /// All workgroups of a head read its `z`.
    fn states(&self) -> Vec<SteppedState> {
        let ends = DoubleBuffer::Ends { parts: self.kv_heads, elements: 2 * self.head_dim };
        vec![SteppedState { state: self.state, double_buffer: ends }]
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths::NONE
    }

    /// A run in chunks: the weights of each head's tokens for each other, and the sums before each chunk.
    fn scratch(&self, cut: &Cut) -> Scratch {
        let (_, chunks) = cut.chunked();
        Scratch {
            tokens: 0,
            squares: chunks * self.heads * cut.chunk * cut.chunk,
            states: chunks * self.kv_heads * self.sums(),
            chunks: 0,
        }
    }

    /// Scans go through a chunk of tokens at a time.
    fn loop_turns(&self) -> usize {
        1
    }

    /// A key and a value join the sums, which each query head then reads.
    fn work(&self, _context: usize) -> Work {
        Work {
            scan: flops([2, self.kv_heads.saturating_add(self.heads), self.sums()]),
            ..Work::NONE
        }
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
