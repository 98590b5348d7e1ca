//! `head_linear`: a projection of each head by itself: `y_h = W_h x_h`, or `y_h = W_h^T x_h`.
//!
//! Latent attention multiplies queries by what makes keys of latents, and sums of latents by what makes values of them (DeepSeek-AI,
//! "DeepSeek-V2", arXiv:2405.04434, 2024, section 2.1.2 and appendix B).

use kinglet_models::Matrix;

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, Slice, StateId, SteppedState,
    Uses, Widths, Work,
};

/// A projection of each head. Some elements of a head may be carried along unchanged.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadLinear {
    /// For each head `[x_h | c_h]`, `[T, heads * (inputs + carried)]`.
    pub input: Slice,
    /// `W_h` of each head, all of one shape: `[outputs, inputs]`, or `[inputs, outputs]` if `transposed`.
    pub heads: Vec<Matrix>,
    /// Whether `x_h` is multiplied by the transpose.
    pub transposed: bool,
    /// Elements of `c_h`.
    pub carried: usize,
    /// For each head `[y_h | c_h]`, `[T, heads * (outputs + carried)]`.
    pub output: BufferId,
}

impl HeadLinear {
    /// Rows and columns of a head's matrix.
    fn shape(&self) -> [usize; 2] {
        self.heads.first().map_or([0, 0], |matrix| [matrix.rows, matrix.cols])
    }

    /// Elements of `x_h`.
    pub fn inputs(&self) -> usize {
        self.shape()[usize::from(!self.transposed)]
    }

    /// Elements of `y_h`.
    pub fn outputs(&self) -> usize {
        self.shape()[usize::from(self.transposed)]
    }
}

impl Describe for HeadLinear {
    fn name(&self) -> &'static str {
        "head_linear"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input.buffer);
        uses.writes.push(self.output);
        uses.matrices.extend(&self.heads);
    }

    fn states(&self) -> Vec<SteppedState> {
        Vec::new()
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
        Work::NONE
    }

    fn loop_turns(&self) -> usize {
        1
    }

    /// Calibration does not observe it: moments of a head's input say nothing about the rows of a transposed matrix.
    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
