//! `moe_route` on the CPU.

use super::CpuOp;
use super::inputs::means_from;
use super::projection::{Before, Projection, prepare, prepare_from, project};
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId, Slice};
use crate::weights::Weights;

pub(super) struct MoeRoute {
    input: BufferId,
    before: Before,
    router: Projection,
    top_k: usize,
    renormalize: bool,
    output: BufferId,
}

impl MoeRoute {
    pub(super) fn new(op: &op::MoeRoute, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            input: op.input,
            before: Before::norm(&op.norm, weights)?,
            router: Projection::new(&op.router, weights)?,
            top_k: op.top_k,
            renormalize: op.renormalize,
            output: op.output,
        })
    }
}

impl CpuOp for MoeRoute {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let (tokens, experts) = (step.tokens.len(), self.router.rows());
        let mut logits = step.scratch.take(tokens * experts)?;
        let width = step.buffers.width(self.input);
        let slice = Slice { buffer: self.input, offset: 0, width };
        let input = prepare(&mut prepare_from!(step), slice, &self.before, None)?;
        let out = (&mut logits[..tokens * experts], experts);
        project(means_from!(step), &[&self.router], input.vectors(), out, |o, r| {
            o.copy_from_slice(r);
        })?;
        input.end(step.scratch);
        let mut output = step.buffers.take(self.output);
        let rows = output.data().chunks_mut(2 * self.top_k);
        for (out, logits) in rows.zip(logits.chunks_mut(experts)) {
            choose(logits, self.top_k, self.renormalize, out);
        }
        step.buffers.put(output);
        step.scratch.give(logits);
        Ok(())
    }
}

/// `out = [experts.., weights..]` by falling weight; ties go to the lower index. Overwrites
/// `logits`.
fn choose(logits: &mut [f32], top_k: usize, renormalize: bool, out: &mut [f32]) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|x| (x - largest).exp()).sum();
    let (experts, weights) = out.split_at_mut(top_k);
    let mut chosen = 0.0;
    for (expert, weight) in experts.iter_mut().zip(weights.iter_mut()) {
        let mut best = 0;
        for (i, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = i;
            }
        }
        *expert = best as f32;
        *weight = (logits[best] - largest).exp() / total;
        chosen += *weight;
        logits[best] = f32::NEG_INFINITY;
    }
    if renormalize {
        weights.iter_mut().for_each(|w| *w /= chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_sum_to_one_if_asked() {
        let logits = [0.0f32, 2.0, -1.0, 2.0, 1.0];
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        let mut out = [0.0; 6];
        choose(&mut logits.clone(), 3, false, &mut out);
        assert_eq!(out[..3], [1.0, 3.0, 4.0]);
        assert!((out[3] - 2f32.exp() / total).abs() < 1e-6);
        assert!((out[5] - 1f32.exp() / total).abs() < 1e-6);
        choose(&mut logits.clone(), 3, true, &mut out);
        assert!((out[3..].iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
