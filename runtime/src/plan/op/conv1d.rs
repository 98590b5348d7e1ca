//! `conv1d`: depthwise causal convolution over time, with gates before and after it:
//! `y_t[c] = C_t[c] act(b[c] + sum_k w[c,k] u_{t-K+1+k}[c])`, `u_t[c] = B_t[c] x_t[c]`.
//!
//! Mamba has SiLU and no gates (Gu and Dao, "Mamba", 2023, figure 3); LFM2 has both gates and no activation (Liquid AI, "LFM2
//! Technical Report", arXiv:2511.23404, 2025).

use kinglet_models::Conv;

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, Slice, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// Depthwise causal convolution with the last gated inputs as state.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv1d {
    /// `x`, `[T, channels]`.
    pub input: Slice,
    /// `B`, `[T, channels]`: a factor on `x`; 1 if not given.
    pub input_gate: Option<Slice>,
    /// Taps and biases, of equal `kernel`: the first of the convolutions takes the first channels, and so on.
    pub convs: Vec<Conv>,
    /// Whether `act` is SiLU; else it is the identity.
    pub silu: bool,
    /// `C`, `[T, channels]`: a factor on the result; 1 if not given.
    pub output_gate: Option<Slice>,
    /// `[kernel - 1, channels]`: `u` before the first token, oldest first.
    pub state: StateId,
    /// `y`, `[T, channels]`.
    pub output: BufferId,
}

impl Conv1d {
    /// Channels of all convolutions.
    pub fn channels(&self) -> usize {
        self.convs.iter().map(|conv| conv.channels).sum()
    }

    /// Taps of each.
    pub fn kernel(&self) -> usize {
        self.convs.first().map_or(0, |conv| conv.kernel)
    }
}

impl Describe for Conv1d {
    fn name(&self) -> &'static str {
        "conv1d"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input.buffer);
        for gate in [self.input_gate, self.output_gate].into_iter().flatten() {
            if !uses.reads.contains(&gate.buffer) {
                uses.reads.push(gate.buffer);
            }
        }
        uses.writes.push(self.output);
        self.convs.iter().for_each(|conv| uses.conv(conv));
    }

    fn states(&self) -> Vec<SteppedState> {
        vec![SteppedState { state: self.state, double_buffer: DoubleBuffer::All }]
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

    fn work(&self, _context: usize) -> Work {
        Work { scan: flops([2, self.channels(), self.kernel()]), ..Work::NONE }
    }

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
