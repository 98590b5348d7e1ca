//! [`Describe`]: the questions that every op answers, and the types of the answers.
//!
//! Plans, backends, traffic counts and calibration ask these questions and never match on ops
//! themselves. No method has a default: a new op answers each, and the compiler names the missing
//! ones.

use std::ops::Range;

use kinglet_models::{Matrix, Norm};

use super::{BufferId, Prologue, StateId, Uses};

/// The questions that every op answers.
pub trait Describe {
    /// The op's name: that of its files and tests.
    fn name(&self) -> &'static str;

    /// Adds the buffers and weights that the op touches. Its states come from [`Describe::states`].
    fn uses<'a>(&'a self, uses: &mut Uses<'a>);

    /// The states that the op steps.
    fn states(&self) -> Vec<SteppedState>;

    /// Limits the positions that the op sees to the last `window` and the first `sinks`, if it sees more. Returns the cache
    /// that may then drop the others.
    fn limit_window(&mut self, window: usize, sinks: usize) -> Option<StateId>;

    /// Memory that the op's dispatches need for each token of a step. Parts of a prepared input start at multiples of `align`
    /// elements.
    fn widths(&self, align: usize) -> Widths;

    /// Memory that the op's dispatches pass to each other within a run.
    fn scratch(&self, cut: &Cut) -> Scratch;

    /// Floating-point operations of the last of `context` tokens, besides its products with the matrices in [`Uses`].
    fn work(&self, context: usize) -> Work;

    /// Most iterations that one thread spends in the op's loops for each token of a run.
    fn loop_turns(&self) -> usize;

    /// The input of the op's projections, for ops that calibration observes.
    fn projection_input(&self) -> Option<ProjectionInput<'_>>;

    /// The calibration site of each of the op's matrices: the input whose moments determine how to
    /// quantize it. Empty for ops without [`Describe::projection_input`].
    fn sites(&self) -> Vec<MatrixSite<'_>>;
}

/// A state that an op reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteppedState {
    /// The state.
    pub state: StateId,
    /// The part that must be double-buffered.
    pub double_buffer: DoubleBuffer,
}

/// The part of a state tensor that is double-buffered if several workgroups share it: a kernel must
/// not write what another workgroup may still read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DoubleBuffer {
    /// Nothing: each element is read and written by one workgroup.
    #[default]
    Nothing,
    /// All of it.
    All,
    /// The end of each of `parts` equal parts.
    Ends {
        /// Parts of the tensor.
        parts: usize,
        /// Elements at the end of each part.
        elements: usize,
    },
}

/// Floating-point operations of one token, where a multiply-add is two. Scans count as in their recurrent form. Norms, activations and
/// gates are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Recurrences and convolutions.
    pub scan: u64,
    /// Products with keys and values.
    pub attention: u64,
}

impl Work {
    /// The op needs none.
    pub const NONE: Self = Self { scan: 0, attention: 0 };
}

/// The product of `factors`, saturating: sizes come from a file.
pub(super) fn flops<const N: usize>(factors: [usize; N]) -> u64 {
    factors.into_iter().fold(1, |product, factor| product.saturating_mul(factor as u64))
}

/// Elements per token of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    /// The prepared input of a tiled projection.
    pub prepared: usize,
    /// Prepared queries.
    pub queries: usize,
    /// Each expert's contribution to a token, before summing.
    pub shares: usize,
}

impl Widths {
    /// The op needs none.
    pub const NONE: Self = Self { prepared: 0, queries: 0, shares: 0 };

    /// The larger of both in every field.
    pub fn max(self, other: Self) -> Self {
        Self {
            prepared: self.prepared.max(other.prepared),
            queries: self.queries.max(other.queries),
            shares: self.shares.max(other.shares),
        }
    }
}

/// How a backend splits a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens of the longest run.
    pub tokens: usize,
    /// Runs of up to this many tokens are not split into chunks.
    pub few: usize,
    /// Tokens per chunk of a scan.
    pub chunk: usize,
    /// Most bytes of a buffer that a kernel can address.
    pub max_bytes: u64,
}

impl Cut {
    /// The length of the longest run that is split into chunks, and its number of chunks; both 0 if
    /// no run is.
    pub fn chunked(&self) -> (usize, usize) {
        if self.tokens > self.few {
            (self.tokens, self.tokens.div_ceil(self.chunk))
        } else {
            (0, 0)
        }
    }
}

/// Elements of each scratch buffer. The next op, and the next run, overwrite them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Per-token values: a convolution's outputs, or pieces of attention.
    pub tokens: usize,
    /// Matrices `[chunk, chunk]`.
    pub squares: usize,
    /// States before each chunk.
    pub states: usize,
    /// Other per-chunk values.
    pub chunks: usize,
}

impl Scratch {
    /// The op needs none.
    pub const NONE: Self = Self { tokens: 0, squares: 0, states: 0, chunks: 0 };

    /// The larger of both in every field.
    pub fn max(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.max(other.tokens),
            squares: self.squares.max(other.squares),
            states: self.states.max(other.states),
            chunks: self.chunks.max(other.chunks),
        }
    }

    /// Elements in the largest buffer.
    pub fn largest(self) -> usize {
        self.tokens.max(self.squares).max(self.states).max(self.chunks)
    }
}

/// The input of an op's projections.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionInput<'a> {
    /// The buffer.
    pub buffer: BufferId,
    /// The columns that matrices of all tokens read; `None` for all.
    pub columns: Option<Range<usize>>,
    /// What is done to it before the projection.
    pub preparation: Preparation<'a>,
    /// The input of experts.
    pub experts: Option<ExpertInput>,
}

/// What is done to an input before it is projected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Preparation<'a> {
    /// Nothing.
    Nothing,
    /// RMS norm.
    Norm(&'a Norm),
    /// The prologue of a [`Linear`](super::Linear).
    Prologue(&'a Prologue),
}

impl<'a> Preparation<'a> {
    /// By `norm`, if there is one.
    pub(super) fn of(norm: Option<&'a Norm>) -> Self {
        norm.map_or(Self::Nothing, Self::Norm)
    }
}

/// The input of an op's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertInput {
    /// The output of [`MoeRoute`](super::MoeRoute).
    pub routes: BufferId,
    /// Experts per token.
    pub top_k: usize,
    /// Number of experts.
    pub count: usize,
    /// If a token's `i`th expert reads its own columns, starting at `i * inner`, their number
    /// `inner`. Otherwise it reads the prepared input, as matrices of all tokens do.
    pub inner: Option<usize>,
}

/// A part of an op's input: which tokens, and which columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InputPart {
    /// All tokens; of `moe_down`, the shared expert's columns.
    All,
    /// The tokens of an expert, each multiplied by its router weight.
    Expert(usize),
}

/// The calibration site of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatrixSite<'a> {
    /// The matrix.
    pub matrix: &'a Matrix,
    /// The part of the op's input that it reads.
    pub part: InputPart,
    /// Whether [`InputPart::All`] is the same input over all tokens, a substitute for an expert
    /// that saw few.
    pub also_all: bool,
}

impl<'a> MatrixSite<'a> {
    /// A matrix that every token reads.
    pub(super) fn all(matrix: &'a Matrix) -> Self {
        Self { matrix, part: InputPart::All, also_all: false }
    }

    /// A matrix of expert `expert`.
    pub(super) fn expert(matrix: &'a Matrix, expert: usize, also_all: bool) -> Self {
        Self { matrix, part: InputPart::Expert(expert), also_all }
    }
}
