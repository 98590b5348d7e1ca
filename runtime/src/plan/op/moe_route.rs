//! `moe_route`: the experts of each token and their weights, as [`Router`] has them, of `R n(x)` (Shazeer et al., 2017, section 2.1;
//! Jiang et al., "Mixtral of Experts", 2024, section 2.1); and the weight `sigmoid(G n(x))` of the shared expert, if that has a gate.

use kinglet_models::{self as spec, Norm, Router};

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, StateId, SteppedState, Uses,
    Widths, Work,
};

/// The router.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeRoute {
    /// `x`, `[T, hidden]`.
    pub input: BufferId,
    /// `n`; none where it is the identity.
    pub norm: Option<Norm>,
    /// `R`, `[experts, hidden]`, and how its results become a choice.
    pub router: Router,
    /// `G`, `[1, hidden]`.
    pub shared_gate: Option<spec::Linear>,
    /// `[T, 2 * top_k]`: the experts' numbers (whole values, best first), then their weights; after them the shared expert's weight, if it
    /// has a gate.
    pub output: BufferId,
}

impl MoeRoute {
    /// Elements of a token's output.
    pub fn width(&self) -> usize {
        2 * self.router.top_k + usize::from(self.shared_gate.is_some())
    }
}

impl Describe for MoeRoute {
    fn name(&self) -> &'static str {
        "moe_route"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
        self.norm.iter().for_each(|norm| uses.norm(norm));
        uses.linear(&self.router.linear);
        uses.vectors.extend(&self.router.selection_bias);
        self.shared_gate.iter().for_each(|gate| uses.linear(gate));
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

    /// Router and gate are not quantized.
    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
