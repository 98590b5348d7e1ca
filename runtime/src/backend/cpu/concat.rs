//! `concat` on the CPU: token by token, on one thread, since it only copies.

use super::CpuOp;
use super::step::Step;
use crate::Error;
use crate::plan::op;

pub(super) struct Concat {
    op: op::Concat,
}

impl Concat {
    pub(super) fn new(op: &op::Concat) -> Self {
        Self { op: op.clone() }
    }
}

impl CpuOp for Concat {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let mut output = step.buffers.take(self.op.output);
        let width = step.buffers.width(self.op.output);
        for (token, mut row) in output.data().chunks_mut(width).enumerate() {
            for input in &self.op.inputs {
                let (x, stride) =
                    (step.buffers.get(input.buffer), step.buffers.width(input.buffer));
                let (columns, rest) = row.split_at_mut(input.width);
                let x = x[token * stride + input.offset..].iter().step_by(input.step);
                columns.iter_mut().zip(x).for_each(|(out, x)| *out = *x);
                row = rest;
            }
        }
        step.buffers.put(output);
        Ok(())
    }
}
