//! `mamba_scan`: the selective scan of Mamba with its skip and gate.
//!
//! `h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c]`, `y[c] = (sum_n C[n] h[c,n] + d[c] x[c]) * silu(z[c])`,
//! with `dt = softplus(.)` and `A = -exp(a_log)` (Gu and Dao, 2023, algorithm 2), where `B` and `C` are those of the channel's head.

use kinglet_models::TensorSpec;

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, Slice, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// The scan of one Mamba layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MambaScan {
    /// `x` after its convolution, `[T, inner]`.
    pub x: BufferId,
    /// `z`, `[T, inner]`.
    pub z: Slice,
    /// `dt` before its softplus, `[T, inner]`.
    pub dt: BufferId,
    /// `B` of the first head, `[T, state]`.
    pub b: Slice,
    /// `C` of the first head, `[T, state]`.
    pub c: Slice,
    /// Heads: equal parts of the channels, each with its own `B` and `C`.
    pub heads: usize,
    /// Columns from the `B` and `C` of a head to those of the next.
    pub head_stride: usize,
    /// RMS norms of `B` and of `C`.
    pub bc_norm: Option<BcNorm>,
    /// `[inner, state]`.
    pub a_log: TensorSpec,
    /// `[inner]`.
    pub d: TensorSpec,
    /// Channels.
    pub inner: usize,
    /// State per channel.
    pub state_dim: usize,
    /// `h`, `[state, inner]`.
    pub state: StateId,
    /// `y`, `[T, inner]`.
    pub output: BufferId,
}

/// RMS norms of `B` and of `C`, over `state_dim` elements.
#[derive(Clone, Debug, PartialEq)]
pub struct BcNorm {
    /// Added to the mean squares.
    pub eps: f32,
    /// What `B` and `C` are multiplied by after it, `[state_dim]` each.
    pub weights: Option<[TensorSpec; 2]>,
}

impl MambaScan {
    /// Weights of the norms of `B` and `C`, if they have any.
    pub fn bc_weights(&self) -> Option<&[TensorSpec; 2]> {
        self.bc_norm.as_ref().and_then(|norm| norm.weights.as_ref())
    }
}

impl Describe for MambaScan {
    fn name(&self) -> &'static str {
        "mamba_scan"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        let reads = [self.x, self.z.buffer, self.dt, self.b.buffer, self.c.buffer];
        uses.reads.extend(reads);
        uses.writes.push(self.output);
        uses.vectors.extend([&self.a_log, &self.d]);
        uses.vectors.extend(self.bc_weights().into_iter().flatten());
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

    fn scratch(&self, _cut: &Cut) -> Scratch {
        Scratch::NONE
    }

    /// For each element of the state: `dt A`, its decay, the update and the product with `C`; the skip.
    fn work(&self, _context: usize) -> Work {
        let state = flops([6, self.inner, self.state_dim]);
        Work { scan: state.saturating_add(flops([2, self.inner])), ..Work::NONE }
    }

    /// A thread processes a channel's state in blocks of 16 elements.
    fn loop_turns(&self) -> usize {
        self.state_dim.div_ceil(16) * (10 + self.state_dim / 16)
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
