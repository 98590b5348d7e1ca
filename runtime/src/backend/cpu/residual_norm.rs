//! `residual_norm` on the CPU: token by token.

use super::CpuOp;
use super::kernel::elementwise::{AddScaled, LayerNorm, RmsNorm, ScaleAndCap};
use super::split::chunks;
use super::step::Step;
use crate::Error;
use crate::plan::op;
use crate::weights::Weights;

/// Minimum number of tokens to split among threads: below it, waking the team costs more than the norms.
const SHARED_TOKENS: usize = 4;

pub(super) struct ResidualNorm {
    op: op::ResidualNorm,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl ResidualNorm {
    pub(super) fn new(op: &op::ResidualNorm, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            weight: weights.norm_weight(&op.norm)?,
            bias: weights.norm_bias(&op.norm)?.unwrap_or_default(),
            op: op.clone(),
        })
    }
}

impl CpuOp for ResidualNorm {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op::ResidualNorm { stream, branch, norm, scale } = &self.op;
        let (isa, tokens) = (step.isa, step.tokens.len());
        let width = step.buffers.width(*stream);
        let mut taken = step.buffers.take(*stream);
        let added = branch.map(|branch| (step.buffers.get(branch), step.buffers.width(branch)));
        let locals = step.locals.get(width)?;
        let one = |normed: &mut [f32], token: usize, x: &mut [f32]| {
            let normed = &mut normed[..width];
            let source = match added {
                Some((rows, stride)) => &rows[token * stride..][..width],
                None => &*x,
            };
            let (weight, bias, eps) = (&self.weight, &self.bias, norm.eps);
            if norm.centred {
                isa.dispatch(LayerNorm { x: source, weight, bias, eps, out: &mut *normed });
            } else {
                isa.dispatch(RmsNorm { x: source, weight, bias, eps, out: &mut *normed });
            }
            if added.is_some() {
                isa.dispatch(AddScaled { scale: *scale, x: normed, out: x });
            } else {
                isa.dispatch(ScaleAndCap { x: &mut *normed, scale: *scale, cap: None });
                x.copy_from_slice(normed);
            }
        };
        let rows = taken.data();
        if tokens < SHARED_TOKENS {
            if let Some(local) = locals.first_mut() {
                rows.chunks_mut(width).enumerate().for_each(|(t, x)| one(local, t, x));
            }
        } else {
            step.team.for_each_with(locals, tokens, chunks(rows, width), |local, token, x| {
                one(local, token, x);
            });
        }
        step.buffers.put(taken);
        Ok(())
    }
}
