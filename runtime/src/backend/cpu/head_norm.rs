//! `head_norm` on the CPU: some tokens a task.

use super::CpuOp;
use super::attention::Rotation;
use super::kernel::elementwise::RmsNorm;
use super::split::chunks;
use super::step::Step;
use crate::Error;
use crate::plan::op;
use crate::weights::Weights;

/// Elements of a task, about.
const ELEMENTS: usize = 1 << 14;

pub(super) struct HeadNorm {
    op: op::HeadNorm,
    /// The norm's weight of each part; empty for none.
    weights: Vec<Vec<f32>>,
}

impl HeadNorm {
    pub(super) fn new(op: &op::HeadNorm, weights: &Weights) -> Result<Self, Error> {
        let weight = |part: &op::HeadPart| match &part.norm {
            Some(norm) => Ok(weights.norm_weight(norm)?),
            None => Ok(Vec::new()),
        };
        let weights = op.parts.iter().map(weight).collect::<Result<_, Error>>()?;
        Ok(Self { op: op.clone(), weights })
    }
}

impl CpuOp for HeadNorm {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let isa = step.isa;
        let mut positions = Vec::with_capacity(step.tokens.len());
        for run in step.runs.iter() {
            positions.extend(run.state.position..run.state.position + run.len);
        }
        let table = op.rope.as_ref().map(|rope| Rotation::new(rope, &positions));
        let width = step.buffers.width(op.output).max(1);
        let mut output = step.buffers.take(op.output);
        let buffers = &*step.buffers;
        let tokens = (ELEMENTS / width).max(1);
        let out = output.data();
        let count = out.len().div_ceil(width * tokens);
        step.team.for_each(count, chunks(out, width * tokens), |task, rows| {
            for (row, out) in rows.chunks_mut(width).enumerate() {
                let token = task * tokens + row;
                let mut rest = out;
                for (part, weight) in op.parts.iter().zip(&self.weights) {
                    let (own, after) = rest.split_at_mut(part.input.width.min(rest.len()));
                    rest = after;
                    let (input, stride) = buffers.slice(part.input);
                    let input = &input[token * stride..][..part.input.width];
                    let dim = part.head_dim.max(1);
                    for (x, out) in input.chunks(dim).zip(own.chunks_mut(dim)) {
                        match &part.norm {
                            Some(norm) => {
                                let eps = norm.eps;
                                isa.dispatch(RmsNorm { x, weight, bias: &[], eps, out: &mut *out });
                            }
                            None => out.copy_from_slice(x),
                        }
                        if let Some(table) = table.as_ref().filter(|_| part.rotated) {
                            table.apply(token, out);
                        }
                    }
                }
            }
        });
        step.buffers.put(output);
        Ok(())
    }
}
