//! `concat`: `y = [x_1 | x_2 | ...]`, columns of buffers side by side. Of one buffer it is a copy; with a step it takes every other
//! column.

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, Slice, StateId, SteppedState,
    Uses, Widths, Work,
};

/// Columns of buffers side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// `x_i`, `[T, width_i]`, in order.
    pub inputs: Vec<Strided>,
    /// `y`, `[T, sum of widths]`.
    pub output: BufferId,
}

/// Columns of a buffer that need not be neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    /// The buffer.
    pub buffer: BufferId,
    /// First column.
    pub offset: usize,
    /// From one column to the next.
    pub step: usize,
    /// Number of columns.
    pub width: usize,
}

impl From<Slice> for Strided {
    fn from(Slice { buffer, offset, width }: Slice) -> Self {
        Self { buffer, offset, step: 1, width }
    }
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
