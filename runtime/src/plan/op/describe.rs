//! [`Describe`]: what is asked of every op, and the terms in which ops answer.
//!
//! Plans, backends, traffic counts and calibration ask these questions and never tell ops apart themselves. No method has a
//! default: a new op answers each, and the compiler names the ones that are missing.

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

    /// Memory that the op's dispatches hand one another within a run.
    fn scratch(&self, cut: &Cut) -> Scratch;

    /// Most iterations that one thread spends in the op's loops for each token of a run.
    fn loop_turns(&self) -> usize;

    /// What the op's projections read, for ops that calibration observes.
    fn projection_input(&self) -> Option<ProjectionInput<'_>>;

    /// The calibration site of each of the op's matrices: the input whose moments say how to quantize it. Empty for ops
    /// without [`Describe::projection_input`].
    fn sites(&self) -> Vec<MatrixSite<'_>>;
}

/// A state that an op reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteppedState {
    /// The state.
    pub state: StateId,
    /// What of it must be double-buffered.
    pub double_buffer: DoubleBuffer,
}

/// What of a state tensor is double-buffered where several workgroups share it: a kernel must not write what another workgroup
/// may still read.
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

/// Elements for each token of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    /// The input of a tiled projection, made ready.
    pub prepared: usize,
    /// Queries, made ready.
    pub queries: usize,
    /// What each expert contributes to a token, before it is added up.
    pub shares: usize,
}

impl Widths {
    /// The op needs none.
    pub const NONE: Self = Self { prepared: 0, queries: 0, shares: 0 };

    /// Enough for either.
    pub fn max(self, other: Self) -> Self {
        Self {
            prepared: self.prepared.max(other.prepared),
            queries: self.queries.max(other.queries),
            shares: self.shares.max(other.shares),
        }
    }
}

/// How a backend cuts a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens of the longest run.
    pub tokens: usize,
    /// Runs of up to this many tokens are not cut into chunks.
    pub few: usize,
    /// Tokens of a chunk of a scan.
    pub chunk: usize,
    /// Most bytes of a buffer that a kernel can address.
    pub max_bytes: u64,
}

impl Cut {
    /// Tokens of the longest run that goes in chunks, and its chunks; both 0 where no run does.
    pub fn chunked(&self) -> (usize, usize) {
        if self.tokens > self.few {
            (self.tokens, self.tokens.div_ceil(self.chunk))
        } else {
            (0, 0)
        }
    }
}

/// Elements of each scratch buffer. The next op, and the next run, overwrites them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scratch {
    /// Values of tokens: a convolution's outputs, or pieces of attention.
    pub tokens: usize,
    /// Matrices `[chunk, chunk]`.
    pub squares: usize,
    /// States before each chunk.
    pub states: usize,
    /// Other values of chunks.
    pub chunks: usize,
}

impl Scratch {
    /// The op needs none.
    pub const NONE: Self = Self { tokens: 0, squares: 0, states: 0, chunks: 0 };

    /// Enough for either.
    pub fn max(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.max(other.tokens),
            squares: self.squares.max(other.squares),
            states: self.states.max(other.states),
            chunks: self.chunks.max(other.chunks),
        }
    }

    /// Elements of the largest buffer.
    pub fn largest(self) -> usize {
        self.tokens.max(self.squares).max(self.states).max(self.chunks)
    }
}

/// What an op's projections read.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionInput<'a> {
    /// Where it is.
    pub buffer: BufferId,
    /// The columns that matrices of all tokens read; all if not given.
    pub columns: Option<Range<usize>>,
    /// What is done to it first.
    pub preparation: Preparation<'a>,
    /// What experts read.
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

/// What the experts of an op read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertInput {
    /// What [`MoeRoute`](super::MoeRoute) wrote.
    pub routes: BufferId,
    /// Experts per token.
    pub top_k: usize,
    /// Experts to choose from.
    pub count: usize,
    /// Where the `i`th expert of a token reads columns of its own, `i * inner ..`, their number `inner`; else it reads the
    /// prepared input, as matrices of all tokens do.
    pub inner: Option<usize>,
}

/// Which tokens of an op's input, and which columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InputPart {
    /// All tokens; of `moe_down`, the shared expert's columns.
    All,
    /// The tokens of an expert, each times the weight that the router gives the expert for it.
    Expert(usize),
}

/// The calibration site of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatrixSite<'a> {
    /// The matrix.
    pub matrix: &'a Matrix,
    /// Which part of the op's input it reads.
    pub part: InputPart,
    /// Whether [`InputPart::All`] is the same input over all tokens: a substitute for an expert that saw few.
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
