//! `residual_norm`: a norm on the way of the residual stream itself, not before a projection.
//!
//! Of the stream: `x = scale * norm(x)`, so that what branches add meets the normed stream (MiniMax-Text-01, arXiv:2501.08313, section
//! 2). Of a branch: `x += scale * norm(branch)`, the second half of a sandwich (Ding et al., "CogView", 2021, section 2.4). `norm` is
//! the RMS norm with its weight.

use kinglet_models::Norm;

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, StateId, SteppedState, Uses,
    Widths, Work,
};

/// A norm of the residual stream, or of what a branch adds to it.
#[derive(Clone, Debug, PartialEq)]
pub struct ResidualNorm {
    /// `x`, `[T, width]`.
    pub stream: BufferId,
    /// `[T, width]`: what is normed and added; the stream itself is normed in place if not given.
    pub branch: Option<BufferId>,
    /// Weight, bias and epsilon.
    pub norm: Norm,
    /// Factor on the normed values.
    pub scale: f32,
}

impl Describe for ResidualNorm {
    fn name(&self) -> &'static str {
        "residual_norm"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.stream);
        uses.reads.extend(self.branch);
        uses.writes.push(self.stream);
        uses.norm(&self.norm);
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

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
