//! `moe_route`: the experts of each token and their weights: the `top_k` largest of `softmax(R
//! n(x))`, normalized to sum to 1 if `renormalize` (Shazeer et al., 2017, section 2.1; Jiang et
//! al., "Mixtral of Experts", 2024, section 2.1).

use kinglet_models::{self as spec, Norm};

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, StateId, SteppedState, Uses,
    Widths,
};

/// The router.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeRoute {
    /// `x`, `[T, hidden]`.
    pub input: BufferId,
    /// `n`.
    pub norm: Norm,
    /// `R`, `[experts, hidden]`.
    pub router: spec::Linear,
    /// Experts per token.
    pub top_k: usize,
    /// Whether the weights are normalized to sum to 1.
    pub renormalize: bool,
    /// `[T, 2 * top_k]`: the experts' indices (whole values, largest weight first), then their
    /// weights.
    pub output: BufferId,
}

impl Describe for MoeRoute {
    fn name(&self) -> &'static str {
        "moe_route"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
        uses.norm(&self.norm);
        uses.linear(&self.router);
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

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    /// The router is not quantized.
    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
