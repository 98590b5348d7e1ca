//! `mlstm_scan`: the matrix-memory recurrence of mLSTM, the norm of its heads and its output gate.
//!
//! The input of a token is `[q | k | v | o | i | f]`. For each head, with `i = cap(i)`, `f = logsigmoid(cap(f))` or `cap(f)`,
//! `m' = max(f + m, i)`:
//! `C = e^(f+m-m') C + e^(i-m') k v^T`, `n = e^(f+m-m') n + e^(i-m') k`,
//! `h = (q^T C / sqrt(dk)) / (max(|q . n| / sqrt(dk), e^-m') + eps)`,
//! `y = sigmoid(o) * (norm(h) * weight + bias) * silu(b)`, where there may be no norm and no `b`
//! (Beck et al., "xLSTM", 2024, eq. 19 to 27, with the stabilizer of eq. 15; the chunkwise form follows by
//! unrolling the recurrence over a chunk).

use kinglet_models::{ForgetGate, Norm};

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, Slice, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// The recurrence of one mLSTM layer.
#[derive(Clone, Debug, PartialEq)]
pub struct MLstmScan {
    /// `[T, heads * (2 * qk_head_dim + 2 * v_head_dim + 2)]`: q, k, v, output gate, input gate, forget gate.
    pub input: BufferId,
    /// Heads.
    pub heads: usize,
    /// Width of queries and keys of a head.
    pub qk_head_dim: usize,
    /// Width of values of a head.
    pub v_head_dim: usize,
    /// `cap * tanh(x / cap)` on the input and forget gates.
    pub gate_soft_cap: Option<f32>,
    /// What the past counts.
    pub forget_gate: ForgetGate,
    /// Added to the denominator.
    pub eps: f32,
    /// Weight and bias `[heads * v_head_dim]`, and epsilon, of the heads' norms.
    pub head_norm: Option<Norm>,
    /// Whether these subtract the mean: layer norms, else RMS.
    pub centred: bool,
    /// `b`, `[T, heads * v_head_dim]`.
    pub stream_gate: Option<Slice>,
    /// `[heads, qk_head_dim * v_head_dim + qk_head_dim + 1]`: `C` by rows of keys, `n`, `m`.
    pub state: StateId,
    /// `y`, `[T, heads * v_head_dim]`.
    pub output: BufferId,
    /// Whether a backend may leave the norm and the gate to the next op, a [`Linear`](super::Linear): it alone reads `y`, all of it, and `input` is
    /// still there. `y` then holds `h`.
    pub defers_norm: bool,
}

impl MLstmScan {
    /// Elements of a head's state: `C`, `n` and `m`.
    pub fn head_state(&self) -> usize {
        self.qk_head_dim * self.v_head_dim + self.qk_head_dim + 1
    }
}

impl Describe for MLstmScan {
    fn name(&self) -> &'static str {
        "mlstm_scan"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
        if let Some(gate) = self.stream_gate.filter(|gate| gate.buffer != self.input) {
            uses.reads.push(gate.buffer);
        }
        self.head_norm.iter().for_each(|norm| uses.norm(norm));
    }

    /// All workgroups of a head read its `n` and `m`.
    fn states(&self) -> Vec<SteppedState> {
        let ends = DoubleBuffer::Ends { parts: self.heads, elements: self.qk_head_dim + 1 };
        vec![SteppedState { state: self.state, double_buffer: ends }]
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths::NONE
    }

    /// A run in chunks: the scores of each head, the states before each chunk, and each chunk's gates.
    fn scratch(&self, cut: &Cut) -> Scratch {
        let (_, chunks) = cut.chunked();
        Scratch {
            tokens: 0,
            squares: chunks * self.heads * cut.chunk * cut.chunk,
            states: chunks * self.heads * self.head_state(),
            chunks: chunks * self.heads * (2 + 3 * cut.chunk),
        }
    }

    /// For each element of `C` and of `n`: its decay, the update and the product with `q`.
    fn work(&self, _context: usize) -> Work {
        Work { scan: flops([5, self.heads, self.qk_head_dim, self.v_head_dim + 1]), ..Work::NONE }
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
