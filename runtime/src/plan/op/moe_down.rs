//! `moe_down`: `x += scale * (sum over chosen experts of weight_e * D_e h_e + weight_shared * D h_shared)`, or `x =` it.

use kinglet_models::Matrix;

use super::{
    BufferId, Cut, Describe, ExpertInput, MatrixSite, Preparation, ProjectionInput, Scratch,
    StateId, SteppedState, Uses, Widths, Work,
};

/// The experts' down projections, their weighted sum and the residual connection.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeDown {
    /// The output of [`MoeUp`](super::MoeUp): `[T, top_k * inner + shared_inner]`.
    pub input: BufferId,
    /// The output of [`MoeRoute`](super::MoeRoute).
    pub routes: BufferId,
    /// Experts per token.
    pub top_k: usize,
    /// `D_e`, `[hidden, inner]`.
    pub experts: Vec<Matrix>,
    /// `D`, `[hidden, shared_inner]`.
    pub shared: Option<Matrix>,
    /// Whether `routes` has a weight for the shared expert, which else is 1.
    pub shared_gated: bool,
    /// Factor on the sum.
    pub scale: f32,
    /// Whether the result replaces what the output held.
    pub store: bool,
    /// `x`, `[T, hidden]`, added to or overwritten.
    pub output: BufferId,
}

impl MoeDown {
    /// Width of an expert.
    pub fn inner(&self) -> usize {
        self.experts.first().map_or(0, |down| down.cols)
    }

    /// Width of the shared expert; 0 without one.
    pub fn shared_inner(&self) -> usize {
        self.shared.as_ref().map_or(0, |down| down.cols)
    }
}

impl Describe for MoeDown {
    fn name(&self) -> &'static str {
        "moe_down"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend([self.input, self.routes]);
        uses.reads.extend((!self.store).then_some(self.output));
        uses.writes.push(self.output);
        uses.experts.extend(self.experts.iter().map(|down| (self.top_k, down)));
        uses.matrices.extend(&self.shared);
        uses.expert_count = self.experts.len();
    }

    fn states(&self) -> Vec<SteppedState> {
        Vec::new()
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    /// The input of each of a token's experts, and the output of each.
    fn widths(&self, align: usize) -> Widths {
        let parts = self.top_k * self.inner().next_multiple_of(align);
        let rows = self.experts.first().map_or(0, |down| down.rows);
        Widths {
            prepared: parts + self.shared_inner().next_multiple_of(align),
            queries: 0,
            shares: (self.top_k + 1) * rows,
        }
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
        let own = self.top_k * self.inner();
        Some(ProjectionInput {
            buffer: self.input,
            columns: Some(own..own + self.shared_inner()),
            preparation: Preparation::Nothing,
            experts: Some(ExpertInput {
                routes: self.routes,
                top_k: self.top_k,
                count: self.experts.len(),
                inner: Some(self.inner()),
            }),
        })
    }

    /// Experts have separate inputs, so none can substitute for another's.
    fn sites(&self) -> Vec<MatrixSite<'_>> {
        let experts = self.experts.iter().enumerate();
        let experts = experts.map(|(expert, down)| MatrixSite::expert(down, expert, false));
        experts.chain(self.shared.iter().map(MatrixSite::all)).collect()
    }
}
