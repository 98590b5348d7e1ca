//! `linear_attention`: attention without a softmax, whose past fades by a fixed factor of each head.
//!
//! With `q`, `k` and `v` passed through the activation, for each head of decay `a = exp(log_decay)`:
//! `S = a S + k v^T`, `y = scale S^T q`
//! (Qin et al., "Lightning Attention-2", arXiv:2401.04658, 2024, section 3.2; MiniMax, "MiniMax-01", arXiv:2501.08313, 2025, section
//! 2.2. The chunkwise form follows by unrolling the recurrence over a chunk).

use kinglet_models::Activation;

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// The recurrence of one layer of linear attention.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearAttention {
    /// `[T, ..]`: queries, keys and values of all heads.
    pub input: BufferId,
    /// Where the queries are, `key_dim` columns a head.
    pub queries: HeadColumns,
    /// Where the keys are, `key_dim` columns a head.
    pub keys: HeadColumns,
    /// Where the values are, `value_dim` columns a head.
    pub values: HeadColumns,
    /// On queries, keys and values.
    pub activation: Option<Activation>,
    /// Factor on the result.
    pub scale: f32,
    /// The logarithm of each head's decay per token, at most 0, `[heads]`.
    pub log_decays: Vec<f32>,
    /// Width of queries and keys of a head.
    pub key_dim: usize,
    /// Width of values of a head.
    pub value_dim: usize,
    /// `S`, `[heads, key_dim, value_dim]`.
    pub state: StateId,
    /// `y`, `[T, heads * value_dim]`.
    pub output: BufferId,
}

/// Columns of each head in a buffer: those of head `h` start at `first + h * stride`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadColumns {
    /// The first column of head 0.
    pub first: usize,
    /// Columns from one head to the next.
    pub stride: usize,
}

impl HeadColumns {
    /// The first column of head `head`.
    pub fn of(self, head: usize) -> usize {
        self.first + head * self.stride
    }
}

impl LinearAttention {
    /// Heads.
    pub fn heads(&self) -> usize {
        self.log_decays.len()
    }
}

impl Describe for LinearAttention {
    fn name(&self) -> &'static str {
        "linear_attention"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
    }

    fn states(&self) -> Vec<SteppedState> {
        vec![SteppedState { state: self.state, double_buffer: DoubleBuffer::Nothing }]
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths::NONE
    }

    /// A run in chunks: the scores of each head, and the states before each chunk.
    fn scratch(&self, cut: &Cut) -> Scratch {
        let (_, chunks) = cut.chunked();
        Scratch {
            tokens: 0,
            squares: chunks * self.heads() * cut.chunk * cut.chunk,
            states: chunks * self.heads() * self.key_dim * self.value_dim,
            chunks: 0,
        }
    }

    /// For each element of the state: its decay, the update and `S^T q`.
    fn work(&self, _context: usize) -> Work {
        Work { scan: flops([5, self.heads(), self.key_dim, self.value_dim]), ..Work::NONE }
    }

    /// Scans go through a chunk of tokens at a time.
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
