//! `slstm_scan`: the recurrence of sLSTM with its memory mixing, the norm of its heads and its output gate.
//!
//! The input of a token is `[i | f | z | o]`, each by head, to which `R h` of the last token is added: head by head and gate by gate a
//! matrix on the head's `h`. With exponential gates, `lf = log sigmoid(f)` or `f`, and `m' = max(lf + m, i)`, at the first token `m' = i`:
//! `c' = e^(lf+m-m') c + e^(i-m') tanh(z)`, `n' = e^(lf+m-m') n + e^(i-m')`, `s = c' / n'`. With sigmoid gates
//! `c' = sigmoid(f) c + sigmoid(i) tanh(z)`, `s = c'`. All elementwise; then `h = sigmoid(o) * rms_norm(s)`, the norm over each head
//! (Beck et al., "xLSTM", 2024, arXiv:2405.04517, eq. 8 to 17).

use kinglet_models::{CellGating, Norm, TensorSpec};

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// The recurrence of one sLSTM layer.
#[derive(Clone, Debug, PartialEq)]
pub struct SLstmScan {
    /// `[T, 4 * heads * head_dim]`: i, f, z, o before the memory mixing, biases added, each by head.
    pub input: BufferId,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// `R`, `[heads, 4, head_dim, head_dim]`; `None` without memory mixing.
    pub recurrent: Option<TensorSpec>,
    /// How gates weigh the past and the new.
    pub gating: CellGating,
    /// Weight `[heads * head_dim]` and epsilon of the heads' norms.
    pub cell_norm: Norm,
    /// `[heads, 4 * head_dim]`: `c`, `n`, `m`, `h`. `n` is 0 before the first token only: from then on it is at least 1. With sigmoid
    /// gates `n` and `m` stay 0.
    pub state: StateId,
    /// `h`, `[T, heads * head_dim]`.
    pub output: BufferId,
}

impl SLstmScan {
    /// Elements of a head's state: `c`, `n`, `m` and `h`.
    pub fn head_state(&self) -> usize {
        4 * self.head_dim
    }
}

impl Describe for SLstmScan {
    fn name(&self) -> &'static str {
        "slstm_scan"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
        uses.vectors.extend(&self.recurrent);
        uses.norm(&self.cell_norm);
    }

    /// A workgroup takes all of a head.
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

    /// A token after the other. For each, a thread of 256 goes through all `h` of its head for each of its channels, and adds up what
    /// others found.
    fn loop_turns(&self) -> usize {
        let channels = self.head_dim.div_ceil(256);
        let mixed = if self.recurrent.is_some() { channels * self.head_dim } else { 0 };
        64 + 8 * channels + mixed
    }

    /// The memory mixing; for each channel what becomes of `c` and `n`.
    fn work(&self, _context: usize) -> Work {
        let mixing = flops([
            8 * usize::from(self.recurrent.is_some()),
            self.heads,
            self.head_dim,
            self.head_dim,
        ]);
        let cells = flops([5, self.heads, self.head_dim]);
        Work { scan: mixing.saturating_add(cells), ..Work::NONE }
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
