//! `mamba2_scan`: convolution and scan of Mamba-2.
//!
//! The input of a token is `[z | x | B | C | dt]`. `[x | B | C]` is convolved and passed through SiLU. For head `h`
//! of group `g`: `dt = clamp(softplus(dt + dt_bias))`, `a = exp(-exp(a_log) dt)`,
//! `S = a S + dt B x^T`, `y = C^T S + d x` (Dao and Gu, 2024, section 3; chunkwise: section 6). The gate `z` is
//! left to the projection that follows.

use kinglet_models::{Conv, TensorSpec};

use super::{BufferId, StateId, Uses};

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

    pub(super) fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
        uses.states.extend([self.conv_state, self.state]);
        uses.conv(&self.conv);
        uses.vectors.extend([&self.a_log, &self.d, &self.dt_bias]);
    }
}
