//! `head` on the CPU: computes only the tokens whose logits are wanted.

use super::CpuOp;
use super::inputs::means_from;
use super::kernel::elementwise::ScaleAndCap;
use super::projection::{Before, Projection, prepare, prepare_from, project};
use super::step::{Step, StepRun};
use crate::Error;
use crate::backend::executable::Logits;
use crate::error::grow;
use crate::plan::op::{self, BufferId, Slice};
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
            before: Before::norm(op.norm.as_ref(), weights)?,
            projection: Projection::new(&op.linear, weights)?,
            scale: op.scale,
            soft_cap: op.soft_cap,
        })
    }
}

impl CpuOp for Head {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
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
        let rows = |run: &StepRun<'_>| run.wanted.rows(run.len);
        let x = input.vectors();
        if let Some(run) = step.runs.iter_mut().find(|run| rows(run) == which.len()) {
            // All rows belong to one run, so compute them in its buffer.
            let held = run.logits.len();
            grow(run.logits, held + which.len() * vocab, "logits")?;
            let out = (&mut run.logits[held..], vocab);
            project(means_from!(step), &[&self.projection], x, out, finish)?;
        } else {
            // One product for all runs, so that the weights are read once.
            let mut all = step.scratch.take(which.len() * vocab)?;
            let out = (&mut all[..which.len() * vocab], vocab);
            project(means_from!(step), &[&self.projection], x, out, finish)?;
            let mut left = &all[..];
            for run in step.runs.iter_mut() {
                let (own, rest) = left.split_at(rows(run) * vocab);
                let held = run.logits.len();
                grow(run.logits, held + own.len(), "logits")?;
                run.logits[held..].copy_from_slice(own);
                left = rest;
            }
            step.scratch.give(all);
        }
        input.end(step.scratch);
        Ok(())
    }
}
