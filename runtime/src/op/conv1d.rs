//! `conv1d`: depthwise causal convolution over time, then SiLU: `y_t[c] = silu(b[c] + sum_k w[c,k] x_{t-K+1+k}[c])`
//! (Gu and Dao, "Mamba", 2023, figure 3).

use kinglet_models::Conv;

use super::{BufferId, Slice, StateId, Uses};

/// Depthwise causal convolution with the last inputs as state.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv1d {
    /// `x`, `[T, channels]`.
    pub input: Slice,
    /// Taps and bias.
    pub conv: Conv,
    /// `[kernel - 1, channels]`: the inputs before the first token, oldest first.
    pub state: StateId,
    /// `y`, `[T, channels]`.
    pub output: BufferId,
}

impl Conv1d {
    pub(super) fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input.buffer);
        uses.writes.push(self.output);
        uses.states.push(self.state);
        uses.conv(&self.conv);
    }
}
