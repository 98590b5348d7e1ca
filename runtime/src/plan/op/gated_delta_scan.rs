//! `gated_delta_scan`: the gated delta rule, with a decay for each head (Gated DeltaNet) or for each channel of its keys (Kimi
//! Delta Attention).
//!
//! The input of a token is `[q | k | v]`. For value head `h`, which reads key head `h / (value_heads / key_heads)`:
//! `q = q / sqrt(q . q + eps) / sqrt(key_dim)`, `k = k / sqrt(k . k + eps)`, `beta = beta_scale sigmoid(b)`,
//! `g = -exp(a_log) softplus(a + dt_bias)`;
//! `S = diag(e^g) S`, `S = S + k (beta (v - S^T k))^T`, `y = S^T q`
//! (Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024, arXiv:2412.06464, eq. 10; chunkwise: section 3.3. With `g` a
//! vector over channels: Kimi Team, "Kimi Linear", 2025, arXiv:2510.26692, eq. 1). Norm and gate of the output are left to the
//! projection that follows.

use kinglet_models::TensorSpec;

use super::{
    BufferId, Cut, Describe, DoubleBuffer, MatrixSite, ProjectionInput, Scratch, Slice, StateId,
    SteppedState, Uses, Widths, Work, flops,
};

/// The recurrence of one layer with the gated delta rule.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedDeltaScan {
    /// `[T, 2 * key_heads * key_dim + value_heads * value_dim]`: q, k, v, convolved.
    pub qkv: BufferId,
    /// `a`, `[T, value_heads]`, or `[T, value_heads * key_dim]` if `per_channel`.
    pub decay: Slice,
    /// `b`, `[T, value_heads]`.
    pub beta: Slice,
    /// `value_heads` elements.
    pub a_log: TensorSpec,
    /// As many elements as `decay` has columns.
    pub dt_bias: TensorSpec,
    /// Whether each channel of a head's keys decays by itself.
    pub per_channel: bool,
    /// Factor on `sigmoid(b)`: 2 where the state's transition may have negative eigenvalues, else 1.
    pub beta_scale: f32,
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of `key_heads`.
    pub value_heads: usize,
    /// Width of queries and keys of a head.
    pub key_dim: usize,
    /// Width of values of a head.
    pub value_dim: usize,
    /// Added to the squared lengths of queries and keys.
    pub norm_eps: f32,
    /// `S`, `[value_heads, key_dim, value_dim]`.
    pub state: StateId,
    /// `y`, `[T, value_heads * value_dim]`.
    pub output: BufferId,
}

impl GatedDeltaScan {
    /// Columns of [`qkv`](Self::qkv).
    pub fn input_width(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    /// Decays of a head: 1, or one for each channel of its keys.
    pub fn decays(&self) -> usize {
        if self.per_channel { self.key_dim } else { 1 }
    }
}

impl Describe for GatedDeltaScan {
    fn name(&self) -> &'static str {
        "gated_delta_scan"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend([self.qkv, self.decay.buffer, self.beta.buffer]);
        uses.writes.push(self.output);
        uses.vectors.extend([&self.a_log, &self.dt_bias]);
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

    /// Whole chunks, however few the tokens are: a head may be too wide for a step. For tokens and heads: decayed queries, decayed keys
    /// twice, updates, and log decays of channels. For chunks and heads: products of queries and of keys with keys, the state before the
    /// chunk, its decay.
    fn scratch(&self, cut: &Cut) -> Scratch {
        let (chunks, heads) = (cut.tokens.div_ceil(cut.chunk), self.value_heads);
        let logs = if self.decays() > 1 { self.key_dim } else { 0 };
        Scratch {
            tokens: chunks * cut.chunk * heads * (3 * self.key_dim + self.value_dim + logs),
            squares: chunks * heads * 2 * cut.chunk * cut.chunk,
            states: chunks * heads * self.key_dim * self.value_dim,
            chunks: chunks * heads * self.decays(),
        }
    }

    /// For each element of the state: its decay, `S^T k`, the update and `S^T q`.
    fn work(&self, _context: usize) -> Work {
        Work { scan: flops([7, self.value_heads, self.key_dim, self.value_dim]), ..Work::NONE }
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
