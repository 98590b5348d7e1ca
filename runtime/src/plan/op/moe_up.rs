//! `moe_up`: `h_e = act(G_e n(x)) * (U_e n(x))`, or without gates `h_e = act(U_e n(x))`, for each chosen expert `e` of a token, and for
//! the shared expert. Or `h_e` of `x_e`, where each of a token's experts has an input of its own.

use kinglet_models::{Activation, Matrix, Norm};

use super::{
    BufferId, Cut, Describe, ExpertInput, MatrixSite, Preparation, ProjectionInput, Scratch,
    StateId, SteppedState, Uses, Widths, Work,
};

/// What an expert's first half multiplies with.
#[derive(Clone, Debug, PartialEq)]
pub struct UpMatrices {
    /// `G`, `[inner, hidden]`; all experts of an op have one, or none has.
    pub gate: Option<Matrix>,
    /// `U`, `[inner, hidden]`.
    pub up: Matrix,
}

impl UpMatrices {
    /// Both, in order.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.gate.iter().chain([&self.up])
    }
}

/// First half of the experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeUp {
    /// `x`, `[T, hidden]`; or `x_e`, `[T, top_k * hidden]`, in the order of the token's experts.
    pub input: BufferId,
    /// Whether each expert of a token has an input of its own. Then there are neither `norm` nor `shared`.
    pub own_inputs: bool,
    /// `n`; none where it is the identity.
    pub norm: Option<Norm>,
    /// The output of [`MoeRoute`](super::MoeRoute).
    pub routes: BufferId,
    /// Experts per token.
    pub top_k: usize,
    /// `G_e` and `U_e`.
    pub experts: Vec<UpMatrices>,
    /// `G` and `U` of the expert that sees every token, `[shared_inner, hidden]`.
    pub shared: Option<UpMatrices>,
    /// `act`.
    pub activation: Activation,
    /// `[T, top_k * inner + shared_inner]`.
    pub output: BufferId,
}

impl MoeUp {
    /// Width of what an expert reads.
    pub fn hidden(&self) -> usize {
        self.experts.first().map_or(0, |expert| expert.up.cols)
    }

    /// Number of inputs side by side.
    pub fn inputs(&self) -> usize {
        if self.own_inputs { self.top_k } else { 1 }
    }

    /// Width of an expert.
    pub fn inner(&self) -> usize {
        self.experts.first().map_or(0, |expert| expert.up.rows)
    }

    /// Width of the shared expert; 0 without one.
    pub fn shared_inner(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.up.rows)
    }

    /// Whether the experts have gates.
    pub fn gated(&self) -> bool {
        self.experts.first().is_some_and(|expert| expert.gate.is_some())
    }
}

impl Describe for MoeUp {
    fn name(&self) -> &'static str {
        "moe_up"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend([self.input, self.routes]);
        uses.writes.push(self.output);
        self.norm.iter().for_each(|norm| uses.norm(norm));
        let matrices = self.experts.iter().flat_map(UpMatrices::matrices);
        uses.experts.extend(matrices.map(|matrix| (self.top_k, matrix)));
        uses.matrices.extend(self.shared.iter().flat_map(UpMatrices::matrices));
        uses.expert_count = self.experts.len();
    }

    fn states(&self) -> Vec<SteppedState> {
        Vec::new()
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, align: usize) -> Widths {
        let prepared = match self.own_inputs {
            true => self.top_k * self.hidden().next_multiple_of(align),
            false => self.hidden(),
        };
        Widths { prepared, ..Widths::NONE }
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
        Some(ProjectionInput {
            buffer: self.input,
            columns: self.own_inputs.then_some(0..0),
            preparation: Preparation::of(self.norm.as_ref()),
            experts: Some(ExpertInput {
                routes: self.routes,
                top_k: self.top_k,
                count: self.experts.len(),
                inner: self.own_inputs.then(|| self.hidden()),
            }),
        })
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        let experts = self.experts.iter().enumerate().flat_map(|(expert, matrices)| {
            let also_all = !self.own_inputs;
            matrices.matrices().map(move |matrix| MatrixSite::expert(matrix, expert, also_all))
        });
        let shared = self.shared.iter().flat_map(UpMatrices::matrices);
        experts.chain(shared.map(MatrixSite::all)).collect()
    }
}
