//! `concat`: `y = [x_1 | x_2 | ...]`, columns of buffers side by side. Of one buffer it is a copy.

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, Slice, StateId, SteppedState,
    Uses, Widths,
};

/// Columns of buffers side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// `x_i`, `[T, width_i]`, in order.
    pub inputs: Vec<Slice>,
    /// `y`, `[T, sum of widths]`.
    pub output: BufferId,
}

impl Describe for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend(self.inputs.iter().map(|input| input.buffer));
        uses.writes.push(self.output);
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

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
