//! `head` on the CPU: only the tokens whose logits are wanted are computed.

use super::CpuOp;
use super::kernel::elementwise::ScaleAndCap;
use super::projection::{Before, Projection, prepare, prepare_from, project};
use super::step::Step;
use crate::Error;
use crate::backend::Logits;
use crate::error::grow;
use crate::op::{self, BufferId, Slice};
use crate::weights::Weights;

pub(super) struct Head {
    input: BufferId,
    before: Before,
    projection: Projection,
    scale: f32,
    soft_cap: Option<f32>,
}

impl Head {
    pub(super) fn new(op: &op::Head, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            input: op.input,
            before: Before::norm(&op.norm, weights)?,
            projection: Projection::new(&op.linear, weights)?,
            scale: op.scale,
            soft_cap: op.soft_cap,
        })
    }
}

impl CpuOp for Head {
    fn run(&self, step: &mut Step<'_>) -> Result<(), Error> {
        let mut which = Vec::new();
        for run in step.runs.iter() {
            match run.wanted {
                Logits::None => {}
                Logits::Last => which.extend((run.start + run.len).checked_sub(1)),
                Logits::All => which.extend(run.start..run.start + run.len),
            }
        }
        if which.is_empty() {
            return Ok(());
        }
        let (vocab, isa) = (self.projection.rows(), step.isa);
        let width = step.buffers.width(self.input);
        let slice = Slice { buffer: self.input, offset: 0, width };
        let input = prepare(&mut prepare_from!(step), slice, &self.before, Some(&which))?;
        let plain = self.scale == 1.0 && self.soft_cap.is_none();
        let finish = |out: &mut [f32], result: &[f32]| {
            out.copy_from_slice(result);
            if !plain {
                isa.dispatch(ScaleAndCap { x: out, scale: self.scale, cap: self.soft_cap });
            }
        };
        // Each run's logits are appended where its caller wants them.
        let mut row = 0;
        for run in step.runs.iter_mut() {
            let rows = run.wanted.rows(run.len);
            if rows == 0 {
                continue;
            }
            let held = run.logits.len();
            grow(run.logits, held + rows * vocab, "logits")?;
            let mut x = input.vectors();
            x.x = &x.x[row * x.stride..];
            x.tokens = rows;
            let out = (&mut run.logits[held..], vocab);
            project(step.team, isa, step.locals, &[&self.projection], x, out, finish)?;
            row += rows;
        }
        input.end(step.scratch);
        Ok(())
    }
}
