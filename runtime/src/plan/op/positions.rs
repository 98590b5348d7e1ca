//! `positions`: `x += P[t]` for a token at position `t`, with a learned table or with sines: see [`spec::Positions`].

use kinglet_models as spec;

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, StateId, SteppedState, Uses,
    Widths, Work,
};

/// Vectors of positions, added to embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    /// `P`, `[positions, width]` if it is learned.
    pub table: spec::Positions,
    /// `x`, `[T, width]`.
    pub output: BufferId,
}

impl Describe for Positions {
    fn name(&self) -> &'static str {
        "positions"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.output);
        uses.writes.push(self.output);
        match &self.table {
            spec::Positions::Learned(table) => uses.rows.push(table),
            spec::Positions::Sinusoidal => {}
        }
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
