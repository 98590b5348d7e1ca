//! `moe_up`: `h_e = act(G_e n(x)) * (U_e n(x))` for each chosen expert `e` of a token, and for the shared expert.

use kinglet_models::{Activation, Matrix, Norm};

use super::{
    BufferId, Cut, Describe, ExpertInput, MatrixSite, Preparation, ProjectionInput, Scratch,
    StateId, SteppedState, Uses, Widths,
};

/// The experts' gate and up projections.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeUp {
    /// `x`, `[T, hidden]`.
    pub input: BufferId,
    /// `n`.
    pub norm: Norm,
    /// The output of [`MoeRoute`](super::MoeRoute).
    pub routes: BufferId,
    /// Experts per token.
    pub top_k: usize,
    /// `(G_e, U_e)`, `[inner, hidden]` each.
    pub experts: Vec<(Matrix, Matrix)>,
    /// `(G, U)` of the expert that sees every token, `[shared_inner, hidden]`.
    pub shared: Option<(Matrix, Matrix)>,
    /// `act`.
    pub activation: Activation,
    /// `[T, top_k * inner + shared_inner]`.
    pub output: BufferId,
}

impl MoeUp {
    /// Width of an expert.
    pub fn inner(&self) -> usize {
        self.experts.first().map_or(0, |(gate, _)| gate.rows)
    }

    /// Width of the shared expert; 0 without one.
    pub fn shared_inner(&self) -> usize {
        self.shared.as_ref().map_or(0, |(gate, _)| gate.rows)
    }
}

impl Describe for MoeUp {
    fn name(&self) -> &'static str {
        "moe_up"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend([self.input, self.routes]);
        uses.writes.push(self.output);
        uses.norm(&self.norm);
        for (gate, up) in &self.experts {
            uses.experts.extend([(self.top_k, gate), (self.top_k, up)]);
        }
        if let Some((gate, up)) = &self.shared {
            uses.matrices.extend([gate, up]);
        }
        uses.expert_count = self.experts.len();
    }

    fn states(&self) -> Vec<SteppedState> {
        Vec::new()
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths { prepared: self.experts.first().map_or(0, |(gate, _)| gate.cols), ..Widths::NONE }
    }

    fn scratch(&self, _cut: &Cut) -> Scratch {
        Scratch::NONE
    }

    fn loop_turns(&self) -> usize {
        1
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        Some(ProjectionInput {
            buffer: self.input,
            columns: None,
            preparation: Preparation::Norm(&self.norm),
            experts: Some(ExpertInput {
                routes: self.routes,
                top_k: self.top_k,
                count: self.experts.len(),
                inner: None,
            }),
        })
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        let experts = self.experts.iter().enumerate().flat_map(|(expert, (gate, up))| {
            [gate, up].map(|matrix| MatrixSite::expert(matrix, expert, true))
        });
        let shared = self.shared.iter().flat_map(|(gate, up)| [gate, up].map(MatrixSite::all));
        experts.chain(shared).collect()
    }
}
