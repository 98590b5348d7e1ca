//! `embed`: `x = scale * E[token]`, or `x = scale * v` of a vector `v` that comes in place of the token's row.

use kinglet_models::Matrix;

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, StateId, SteppedState, Uses,
    Widths, Work,
};

/// Token embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// `E`, `[vocab, width]`; `None` if every row comes as a vector.
    pub table: Option<Matrix>,
    /// Factor on every row.
    pub scale: f32,
    /// `[T, width]`.
    pub output: BufferId,
}

impl Describe for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.writes.push(self.output);
        uses.rows.extend(&self.table);
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
