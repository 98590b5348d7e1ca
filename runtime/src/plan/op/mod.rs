//! The ops of a [`Plan`](crate::plan::Plan): what each computes, on which buffers, with which
//! weights and states.
//!
//! An op named `x` is described in `op/x.rs`, computed on the CPU by `cpu/x.rs`, defined in plain
//! f64 in `tests/src/reference/x.rs` and tested against that by `tests/op/x.rs`. It answers the
//! questions of plans and backends itself ([`Describe`]). Ops are plain data, the same for every
//! backend. Each is fused as far as a backend can run it in one dispatch (the scans include their
//! convolution, the projections their norm).
//!
//! Shapes: `T` is the number of tokens of a step, with all runs concatenated. A buffer is a matrix
//! `[T, width]` of `f32`.

#![deny(clippy::wildcard_enum_match_arm)]

mod attention;
mod concat;
mod conv1d;
mod describe;
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
mod mlstm_scan;
mod moe_down;
mod moe_route;
mod moe_up;
mod multi_level_attention;
mod positions;
mod residual_norm;
mod slstm_scan;

pub use attention::{Attention, AttentionSpan, AttentionValues};
pub use concat::{Concat, Strided};
pub use conv1d::Conv1d;
use describe::flops;
pub use describe::{
    Cut, Describe, DoubleBuffer, ExpertInput, InputPart, MatrixSite, Preparation, ProjectionInput,
    Scratch, SteppedState, Widths, Work,
};
pub use embed::Embed;
pub use expert_norm::ExpertNorm;
pub use gated_delta_scan::GatedDeltaScan;
pub use gated_linear::GatedLinear;
pub use head::Head;
pub use head_linear::HeadLinear;
pub use head_norm::{HeadNorm, HeadPart};
pub use hybrid_attention::{DIRECT, HybridAttention, HybridLayout};
pub use kernel_attention::KernelAttention;
pub use linear::{Linear, Output, Prologue};
pub use linear_attention::{HeadColumns, LinearAttention};
pub use mamba_scan::{BcNorm, MambaScan};
pub use mamba2_scan::Mamba2Scan;
pub use mlstm_scan::MLstmScan;
pub use moe_down::MoeDown;
pub use moe_route::MoeRoute;
pub use moe_up::{MoeUp, UpMatrices};
pub use multi_level_attention::{MultiLevelAttention, multi_level_window};
pub use positions::Positions;
pub use residual_norm::ResidualNorm;
pub use slstm_scan::SLstmScan;

use kinglet_models::{Matrix, TensorSpec};

/// The id of a buffer: its index in [`Plan::buffers`](crate::plan::Plan::buffers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub usize);

/// The id of a state tensor: its index in [`Plan::states`](crate::plan::Plan::states).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub usize);

/// Columns `offset..offset + width` of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The buffer.
    pub buffer: BufferId,
    /// First column.
    pub offset: usize,
    /// Number of columns.
    pub width: usize,
}

/// One op of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Token embedding.
    Embed(Embed),
    /// Vectors of positions, added to embeddings.
    Positions(Positions),
    /// A projection with what comes before and after it.
    Linear(Linear),
    /// Two projections, one gating the other.
    GatedLinear(GatedLinear),
    /// A projection of each head by itself.
    HeadLinear(HeadLinear),
    /// Softmax attention over a cache.
    Attention(Attention),
    /// Columns of buffers side by side.
    Concat(Concat),
    /// Depthwise causal convolution.
    Conv1d(Conv1d),
    /// Mamba's scan.
    MambaScan(MambaScan),
    /// Mamba-2's convolution and scan.
    Mamba2Scan(Mamba2Scan),
    /// mLSTM's scan.
    MLstmScan(MLstmScan),
    /// The scan of the gated delta rule.
    GatedDeltaScan(GatedDeltaScan),
    /// Attention without a softmax, with a fixed decay for each head.
    LinearAttention(LinearAttention),
    /// Norm and rotation of heads.
    HeadNorm(HeadNorm),
    /// Attention without a softmax, normalised by the sum of its weights.
    KernelAttention(KernelAttention),
    /// sLSTM's scan.
    SLstmScan(SLstmScan),
    /// Softmax attention in tiers, with a linear memory.
    HybridAttention(HybridAttention),
    /// Softmax attention to means of blocks, at several levels.
    MultiLevelAttention(MultiLevelAttention),
    /// The router: chooses the experts of each token.
    MoeRoute(MoeRoute),
    /// A norm of each expert's input.
    ExpertNorm(ExpertNorm),
    /// The experts' up projections.
    MoeUp(MoeUp),
    /// The experts' down projections.
    MoeDown(MoeDown),
    /// A norm of the residual stream itself, or of what a branch adds to it.
    ResidualNorm(ResidualNorm),
    /// Logits.
    Head(Head),
}

impl Op {
    /// The op's answers to the questions of [`Describe`].
    pub fn description(&self) -> &dyn Describe {
        match self {
            Op::Embed(op) => op,
            Op::Positions(op) => op,
            Op::Linear(op) => op,
            Op::GatedLinear(op) => op,
            Op::HeadLinear(op) => op,
            Op::Attention(op) => op,
            Op::Concat(op) => op,
            Op::Conv1d(op) => op,
            Op::MambaScan(op) => op,
            Op::Mamba2Scan(op) => op,
            Op::MLstmScan(op) => op,
            Op::GatedDeltaScan(op) => op,
            Op::LinearAttention(op) => op,
            Op::HeadNorm(op) => op,
            Op::KernelAttention(op) => op,
            Op::SLstmScan(op) => op,
            Op::HybridAttention(op) => op,
            Op::MultiLevelAttention(op) => op,
            Op::MoeRoute(op) => op,
            Op::ExpertNorm(op) => op,
            Op::MoeUp(op) => op,
            Op::MoeDown(op) => op,
            Op::ResidualNorm(op) => op,
            Op::Head(op) => op,
        }
    }

    /// Like [`Op::description`], to change the op.
    pub fn description_mut(&mut self) -> &mut dyn Describe {
        match self {
            Op::Embed(op) => op,
            Op::Positions(op) => op,
            Op::Linear(op) => op,
            Op::GatedLinear(op) => op,
            Op::HeadLinear(op) => op,
            Op::Attention(op) => op,
            Op::Concat(op) => op,
            Op::Conv1d(op) => op,
            Op::MambaScan(op) => op,
            Op::Mamba2Scan(op) => op,
            Op::MLstmScan(op) => op,
            Op::GatedDeltaScan(op) => op,
            Op::LinearAttention(op) => op,
            Op::HeadNorm(op) => op,
            Op::KernelAttention(op) => op,
            Op::SLstmScan(op) => op,
            Op::HybridAttention(op) => op,
            Op::MultiLevelAttention(op) => op,
            Op::MoeRoute(op) => op,
            Op::ExpertNorm(op) => op,
            Op::MoeUp(op) => op,
            Op::MoeDown(op) => op,
            Op::ResidualNorm(op) => op,
            Op::Head(op) => op,
        }
    }

    /// The op's name: that of its files and tests.
    pub fn name(&self) -> &'static str {
        self.description().name()
    }

    /// What the op reads and writes: the basis of buffer lifetimes, dependencies and byte counts.
    pub fn uses(&self) -> Uses<'_> {
        let mut uses = Uses::default();
        let description = self.description();
        description.uses(&mut uses);
        uses.states.extend(description.states().iter().map(|stepped| stepped.state));
        uses
    }
}

/// What an op reads and writes.
#[derive(Clone, Debug, Default)]
pub struct Uses<'a> {
    /// Buffers read.
    pub reads: Vec<BufferId>,
    /// Buffers written. An accumulating op also reads them, and lists them in both.
    pub writes: Vec<BufferId>,
    /// State tensors read and written.
    pub states: Vec<StateId>,
    /// Matrices that every token reads.
    pub matrices: Vec<&'a Matrix>,
    /// Matrices of which a token reads a share: experts, each with how many of them a token uses.
    pub experts: Vec<(usize, &'a Matrix)>,
    /// The number of experts that those matrices belong to.
    pub expert_count: usize,
    /// Matrices of which a token reads one row: embedding tables.
    pub rows: Vec<&'a Matrix>,
    /// Small tensors.
    pub vectors: Vec<&'a TensorSpec>,
}

impl<'a> Uses<'a> {
    fn linear(&mut self, linear: &'a kinglet_models::Linear) {
        self.matrices.push(&linear.weight);
        self.vectors.extend(&linear.bias);
    }

    fn norm(&mut self, norm: &'a kinglet_models::Norm) {
        self.vectors.push(&norm.weight);
        self.vectors.extend(&norm.bias);
    }

    fn conv(&mut self, conv: &'a kinglet_models::Conv) {
        self.vectors.push(&conv.weight);
        self.vectors.extend(&conv.bias);
    }
}
