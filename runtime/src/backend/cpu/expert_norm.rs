//! `expert_norm` on the CPU: token by token.

use super::CpuOp;
use super::kernel::elementwise::RmsNorm;
use super::projection::{Before, prepare, prepare_from};
use super::split::chunks;
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId, Slice};
use crate::weights::Weights;

pub(super) struct ExpertNorm {
    input: BufferId,
    before: Before,
    routes: BufferId,
    top_k: usize,
    /// `[experts, width]`.
    weight: Vec<f32>,
    eps: f32,
    output: BufferId,
}

impl ExpertNorm {
    pub(super) fn new(op: &op::ExpertNorm, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            input: op.input,
            before: Before::norm(op.norm.as_ref(), weights)?,
            routes: op.routes,
            top_k: op.top_k,
            weight: weights.norm_weight(&op.expert_norm)?,
            eps: op.expert_norm.eps,
            output: op.output,
        })
    }
}

impl CpuOp for ExpertNorm {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let (tokens, isa, team) = (step.tokens.len(), step.isa, step.team);
        let width = step.buffers.width(self.input);
        let mut output = step.buffers.take(self.output);
        let slice = Slice { buffer: self.input, offset: 0, width };
        let input = prepare(&mut prepare_from!(step), slice, &self.before, None)?;
        let x = input.vectors();
        let (routes, stride) = (step.buffers.get(self.routes), step.buffers.width(self.routes));
        team.for_each(tokens, chunks(output.data(), self.top_k * width), |token, out| {
            let x = &x.x[token * x.stride..][..width];
            let chosen = &routes[token * stride..][..self.top_k];
            for (out, expert) in out.chunks_mut(width).zip(chosen) {
                let weight = &self.weight[*expert as usize * width..][..width];
                isa.dispatch(RmsNorm { x, weight, bias: &[], eps: self.eps, out });
            }
        });
        input.end(step.scratch);
        step.buffers.put(output);
        Ok(())
    }
}
