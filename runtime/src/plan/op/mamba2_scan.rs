//! `mamba2_scan`: convolution and scan of Mamba-2.
//!
//! The input of a token is `[z | x | B | C | dt]`. `[x | B | C]` is convolved and passed through SiLU. For head `h`
//! of group `g`: `dt = clamp(softplus(dt + dt_bias))`, `a = exp(-exp(a_log) dt)`,
//! `S = a S + dt B x^T`, `y = C^T S + d x` (Dao and Gu, 2024, section 3; chunkwise: section 6). The gate `z` is
//! left to the projection that follows.

use kinglet_models::{Conv, TensorSpec};

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// Convolution and scan of one Mamba-2 layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba2Scan {
    /// `[T, 2 * inner + 2 * groups * state + heads]`: z, x, B, C, dt.
    pub input: BufferId,
    /// Over x, B and C.
    pub conv: Conv,
    /// `[heads]`.
    pub a_log: TensorSpec,
    /// `[heads]`.
    pub d: TensorSpec,
    /// `[heads]`.
    pub dt_bias: TensorSpec,
    /// Bounds on `dt` after its softplus.
    pub dt_limit: (f32, f32),
    /// Heads.
    pub heads: usize,
    /// Width of a head; `inner = heads * head_dim`.
    pub head_dim: usize,
    /// Groups that share B and C.
    pub groups: usize,
    /// State per head element.
    pub state_dim: usize,
    /// `[kernel - 1, channels]`: the convolution's last inputs, oldest first.
    pub conv_state: StateId,
    /// `S`, `[heads, state, head_dim]`.
    pub state: StateId,
    /// `y`, `[T, inner]`.
    pub output: BufferId,
}

impl Mamba2Scan {
    /// `heads * head_dim`.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of the input: z, then the convolution's channels, then dt.
    pub fn input_width(&self) -> usize {
        self.inner() + self.conv.channels + self.heads
    }
}

impl Describe for Mamba2Scan {
    fn name(&self) -> &'static str {
        "mamba2_scan"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
        uses.conv(&self.conv);
        uses.vectors.extend([&self.a_log, &self.d, &self.dt_bias]);
    }

    fn states(&self) -> Vec<SteppedState> {
        vec![
            SteppedState { state: self.conv_state, double_buffer: DoubleBuffer::All },
            SteppedState { state: self.state, double_buffer: DoubleBuffer::Nothing },
        ]
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths::NONE
    }

    /// A run in chunks: the convolution's outputs, `C B^T` of each group, the states before each
    /// chunk, and each chunk's decay.
    fn scratch(&self, cut: &Cut) -> Scratch {
        let (tokens, chunks) = cut.chunked();
        Scratch {
            tokens: tokens * self.conv.channels,
            squares: chunks * self.groups * cut.chunk * cut.chunk,
            states: chunks * self.heads * self.state_dim * self.head_dim,
            chunks: chunks * self.heads,
        }
    }

    /// The convolution; for each element of the state its decay, the update and `C^T S`; the skip.
    fn work(&self, _context: usize) -> Work {
        let conv = flops([2, self.conv.channels, self.conv.kernel]);
        let state = flops([5, self.inner(), self.state_dim]);
        Work {
            scan: conv.saturating_add(state).saturating_add(flops([2, self.inner()])),
            ..Work::NONE
        }
    }

    /// Scans process a chunk of tokens at a time.
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
