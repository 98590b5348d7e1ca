//! `linear` on the CPU.

use super::CpuOp;
use super::inputs::means_from;
use super::kernel::elementwise::{Activate, AddScaled};
use super::projection::{Before, Projection, prepare, prepare_from, project};
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, Output, Slice};
use crate::weights::Weights;

pub(super) struct Linear {
    input: Slice,
    before: Before,
    parts: Vec<Projection>,
    output: Slice,
    mode: Output,
}

impl Linear {
    pub(super) fn new(op: &op::Linear, weights: &Weights) -> Result<Self, Error> {
        let parts = op.parts.iter().map(|part| Projection::new(part, weights));
        Ok(Self {
            input: op.input,
            before: Before::new(&op.prologue, weights)?,
            parts: parts.collect::<Result<_, _>>()?,
            output: op.output,
            mode: op.mode,
        })
    }
}

impl CpuOp for Linear {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let mut output = step.buffers.take(self.output.buffer);
        let stride = step.buffers.width(self.output.buffer);
        let input = prepare(&mut prepare_from!(step), self.input, &self.before, None)?;
        let parts: Vec<&Projection> = self.parts.iter().collect();
        let columns = &mut output.data()[self.output.offset..];
        let (x, out, isa) = (input.vectors(), (columns, stride), step.isa);
        match self.mode {
            Output::Store => project(means_from!(step), &parts, x, out, |out, result| {
                out.copy_from_slice(result);
            }),
            Output::Activate(activation) => project(means_from!(step), &parts, x, out, |out, x| {
                isa.dispatch(Activate { activation, x, out });
            }),
            Output::Add { scale } => project(means_from!(step), &parts, x, out, |out, result| {
                isa.dispatch(AddScaled { scale, x: result, out });
            }),
        }?;
        input.end(step.scratch);
        step.buffers.put(output);
        Ok(())
    }
}
