//! `head`: `z = scale * (W n(x) + b)`, with a soft cap if the model has one, for the tokens whose
//! logits are wanted.

use kinglet_models::{self as spec, Norm};

use super::{
    BufferId, Cut, Describe, MatrixSite, Preparation, ProjectionInput, Scratch, StateId,
    SteppedState, Uses, Widths, Work,
};

/// Logits of some of a step's tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// `x`, `[T, hidden]`.
    pub input: BufferId,
    /// `n`; without it the input is used as it is.
    pub norm: Option<Norm>,
    /// `W`, `[vocab, hidden]`.
    pub linear: spec::Linear,
    /// Factor on the logits.
    pub scale: f32,
    /// `cap * tanh(z / cap)`.
    pub soft_cap: Option<f32>,
}

impl Describe for Head {
    fn name(&self) -> &'static str {
        "head"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        if let Some(norm) = &self.norm {
            uses.norm(norm);
        }
        uses.linear(&self.linear);
    }

    fn states(&self) -> Vec<SteppedState> {
        Vec::new()
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths { prepared: self.linear.weight.cols, ..Widths::NONE }
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
            preparation: self.norm.as_ref().map_or(Preparation::Nothing, Preparation::Norm),
            experts: None,
        })
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        vec![MatrixSite::all(&self.linear.weight)]
    }
}
