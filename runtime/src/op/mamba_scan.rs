//! `mamba_scan`: the selective scan of Mamba with its skip and gate.
//!
//! `h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c]`, `y[c] = (sum_n C[n] h[c,n] + d[c] x[c]) * silu(z[c])`,
//! with `dt = softplus(.)` and `A = -exp(a_log)` (Gu and Dao, 2023, algorithm 2).

use kinglet_models::TensorSpec;

use super::{BufferId, Slice, StateId, Uses};

/// The scan of one Mamba layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MambaScan {
    /// `x` after its convolution, `[T, inner]`.
    pub x: BufferId,
    /// `z`, `[T, inner]`.
    pub z: Slice,
    /// `dt` before its softplus, `[T, inner]`.
    pub dt: BufferId,
    /// `B`, `[T, state]`.
    pub b: Slice,
    /// `C`, `[T, state]`.
    pub c: Slice,
    /// RMS norm without a weight on `B` and on `C`, with this epsilon.
    pub bc_norm_eps: Option<f32>,
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

impl MambaScan {
    pub(super) fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        let reads = [self.x, self.z.buffer, self.dt, self.b.buffer, self.c.buffer];
        uses.reads.extend(reads);
        uses.writes.push(self.output);
        uses.states.push(self.state);
        uses.vectors.extend([&self.a_log, &self.d]);
    }
}
