//! A language model in plain `f64`: the page to read first.
//!
//! [`run`] is the whole forward pass. A [`Plan`] is a list of ops over buffers; each op is one file
//! here, named like the op, and reads like its paper. [`Pass::op`] lists them all. Where to
//! continue:
//!
//! | for | read |
//! | --- | --- |
//! | what an op's fields are, and where its equation comes from | `runtime/src/plan/op/NAME.rs` |
//! | how layers become ops | `runtime/src/plan/lower/` |
//! | how a `config.json` becomes layers | `models/` |
//! | the same ops made fast | `runtime/src/backend/cpu/NAME.rs`, `shaders/src/NAME.wgsl` |
//!
//! A pass takes all tokens of a sequence at once, so there is no state to carry: recurrences and
//! caches start empty at the first token. Nothing here is fast, and no code is shared with a
//! backend. The op tests compare every backend with this, and `tests/conformance.rs` compares it
//! with `transformers`.

mod attention;
mod concat;
mod conv1d;
mod embed;
mod expert_norm;
mod gated_delta_scan;
mod gated_linear;
mod head;
mod head_linear;
mod head_norm;
mod hybrid_attention;
mod kernel_attention;
mod linear;
mod linear_attention;
mod mamba2_scan;
mod mamba_scan;
pub mod math;
mod mlstm_scan;
mod moe_down;
pub mod moe_route;
mod moe_up;
mod multi_level_attention;
mod positions;
mod residual_norm;
mod slstm_scan;
mod values;

use kinglet::op::{BufferId, Op, Slice};
use kinglet::plan::Plan;
use kinglet::weights::Weights;

pub use values::{Conv, Linear, Norm, Values};

/// A matrix `[T, width]`: a row for each token.
pub type Rows = Vec<Vec<f64>>;

/// The logits after each of `tokens`, `[T, vocab]`, for a sequence that starts with them.
pub fn run(plan: &Plan, weights: &Weights, tokens: &[u32]) -> Rows {
    let mut pass = Pass::new(plan, weights, tokens);
    for op in &plan.ops {
        pass.op(op);
    }
    pass.logits
}

/// A forward pass in progress.
#[derive(Debug)]
pub struct Pass<'a> {
    /// The sequence.
    pub tokens: &'a [u32],
    /// The weights.
    pub values: Values<'a>,
    /// Current contents of the plan's buffers.
    pub buffers: Vec<Rows>,
    /// Output of the head.
    pub logits: Rows,
}

impl<'a> Pass<'a> {
    /// A pass over `tokens` before its first op. Buffers hold NaN, so that a read before a write is
    /// noticed.
    pub fn new(plan: &Plan, weights: &'a Weights, tokens: &'a [u32]) -> Self {
        let empty = |width: usize| vec![vec![f64::NAN; width]; tokens.len()];
        let buffers = plan.buffers.iter().map(|buffer| empty(buffer.width)).collect();
        Self { tokens, values: Values(weights), buffers, logits: Vec::new() }
    }

    /// Computes one op.
    #[deny(clippy::wildcard_enum_match_arm)]
    pub fn op(&mut self, op: &Op) {
        match op {
            Op::Embed(op) => self.write(op.output, embed::embed(op, self)),
            Op::Positions(op) => self.write(op.output, positions::positions(op, self)),
            Op::Linear(op) => self.write(op.output.buffer, linear::linear(op, self)),
            Op::GatedLinear(op) => self.write(op.output, gated_linear::gated_linear(op, self)),
            Op::HeadLinear(op) => self.write(op.output, head_linear::head_linear(op, self)),
            Op::Attention(op) => self.write(op.output, attention::attention(op, self)),
            Op::Concat(op) => self.write(op.output, concat::concat(op, self)),
            Op::Conv1d(op) => self.write(op.output, conv1d::conv1d(op, self)),
            Op::MambaScan(op) => self.write(op.output, mamba_scan::mamba_scan(op, self)),
            Op::Mamba2Scan(op) => self.write(op.output, mamba2_scan::mamba2_scan(op, self)),
            Op::MLstmScan(op) => self.write(op.output, mlstm_scan::mlstm_scan(op, self)),
            Op::GatedDeltaScan(op) => {
                self.write(op.output, gated_delta_scan::gated_delta_scan(op, self));
            }
            Op::LinearAttention(op) => {
                self.write(op.output, linear_attention::linear_attention(op, self));
            }
            Op::HeadNorm(op) => self.write(op.output, head_norm::head_norm(op, self)),
            Op::KernelAttention(op) => {
                self.write(op.output, kernel_attention::kernel_attention(op, self));
            }
            Op::SLstmScan(op) => self.write(op.output, slstm_scan::slstm_scan(op, self)),
            Op::HybridAttention(op) => {
                self.write(op.output, hybrid_attention::hybrid_attention(op, self));
            }
            Op::MultiLevelAttention(op) => {
                self.write(op.output, multi_level_attention::multi_level_attention(op, self));
            }
            Op::MoeRoute(op) => self.write(op.output, moe_route::moe_route(op, self)),
            Op::ExpertNorm(op) => self.write(op.output, expert_norm::expert_norm(op, self)),
            Op::MoeUp(op) => self.write(op.output, moe_up::moe_up(op, self)),
            Op::MoeDown(op) => self.write(op.output, moe_down::moe_down(op, self)),
            Op::ResidualNorm(op) => {
                self.write(op.stream, residual_norm::residual_norm(op, self));
            }
            Op::Head(op) => self.logits = head::head(op, self),
        }
    }

    /// The rows of a buffer.
    fn read(&self, buffer: BufferId) -> &Rows {
        &self.buffers[buffer.0]
    }

    /// Some columns of a buffer.
    fn columns(&self, slice: Slice) -> Rows {
        let Slice { buffer, offset, width } = slice;
        self.read(buffer).iter().map(|row| row[offset..offset + width].to_vec()).collect()
    }

    fn write(&mut self, buffer: BufferId, rows: Rows) {
        let old = &mut self.buffers[buffer.0];
        let shape = |rows: &Rows| rows.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(shape(&rows), shape(old), "the shape of a buffer");
        *old = rows;
    }
}
