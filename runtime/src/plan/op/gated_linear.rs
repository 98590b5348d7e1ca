//! `gated_linear`: `h = act(s_g (G n(x) + b_g) + d_g) * (s_u (U n(x) + b_u) + d_u)`, with factors `s` of the config: the first half of a
//! gated feed-forward network, with its norm. `d` is what was computed before, by an adapter; elsewhere 0.

use kinglet_models::{self as spec, Activation, Norm};

use super::{
    BufferId, Cut, Describe, MatrixSite, Preparation, ProjectionInput, Scratch, StateId,
    SteppedState, Uses, Widths, Work,
};

/// Two projections of the normed input, one gating the other.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedLinear {
    /// `x`, `[T, hidden]`.
    pub input: BufferId,
    /// `n`; none where it is the identity.
    pub norm: Option<Norm>,
    /// `G`, `[inner, hidden]`.
    pub gate: spec::Linear,
    /// `U`, `[inner, hidden]`.
    pub up: spec::Linear,
    /// `d_g` and `d_u` side by side, `[T, 2 * inner]`.
    pub added: Option<BufferId>,
    /// `act`.
    pub activation: Activation,
    /// `h`, `[T, inner]`.
    pub output: BufferId,
}

impl Describe for GatedLinear {
    fn name(&self) -> &'static str {
        "gated_linear"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.reads.extend(self.added);
        uses.writes.push(self.output);
        self.norm.iter().for_each(|norm| uses.norm(norm));
        uses.linear(&self.gate);
        uses.linear(&self.up);
    }

    fn states(&self) -> Vec<SteppedState> {
        Vec::new()
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths { prepared: self.gate.weight.cols, ..Widths::NONE }
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
            columns: None,
            preparation: Preparation::of(self.norm.as_ref()),
            experts: None,
        })
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        vec![MatrixSite::all(&self.gate.weight), MatrixSite::all(&self.up.weight)]
    }
}
