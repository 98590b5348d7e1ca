//! `expert_norm`: `y_e = w_e * rms(n(x))` for each chosen expert `e` of a token: each expert norms its input with a weight of its own.
//! The factor `rms` (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, eq. 4) is the same for all of them.

use kinglet_models::Norm;

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, StateId, SteppedState, Uses,
    Widths, Work,
};

/// A norm of each expert's input.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertNorm {
    /// `x`, `[T, width]`.
    pub input: BufferId,
    /// `n`; none where it is the identity.
    pub norm: Option<Norm>,
    /// The output of [`MoeRoute`](super::MoeRoute).
    pub routes: BufferId,
    /// Experts per token.
    pub top_k: usize,
    /// `w`, `[experts, width]`, without a bias; and epsilon.
    pub expert_norm: Norm,
    /// `[T, top_k * width]`.
    pub output: BufferId,
}

impl Describe for ExpertNorm {
    fn name(&self) -> &'static str {
        "expert_norm"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend([self.input, self.routes]);
        uses.writes.push(self.output);
        self.norm.iter().for_each(|norm| uses.norm(norm));
        uses.norm(&self.expert_norm);
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

    fn loop_turns(&self) -> usize {
        1
    }

    fn work(&self, _context: usize) -> Work {
        Work::NONE
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
