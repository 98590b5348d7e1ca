//! `gated_linear` on the CPU: a task computes the same rows of both projections, then gates them.

use kinglet_models::Activation;

use super::CpuOp;
use super::inputs::{Inputs, means_from};
use super::kernel::dot::Vectors;
use super::kernel::elementwise::{Activate, Gate};
use super::projection::{Before, Projection, Tiling, prepare, prepare_from};
use super::simd::Isa;
use super::split::RowsMut;
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId, Slice};
use crate::weights::Weights;

pub(super) struct GatedLinear {
    input: BufferId,
    before: Before,
    pair: GatedPair,
    added: Option<BufferId>,
    output: BufferId,
}

/// Two projections of one shape, the first gating the second; or the second alone.
pub(super) struct GatedPair {
    pub gate: Option<Projection>,
    pub up: Projection,
    pub activation: Activation,
}

impl GatedPair {
    pub(super) fn tiling(&self, tokens: usize, threads: usize) -> Tiling {
        let (rows, cols) = (self.up.rows(), self.up.cols());
        // A row of the pair is two rows of weights.
        let row_bytes = self.projections().map(|part| part.matrix.row_bytes()).sum();
        Tiling::new(rows, cols, row_bytes, tokens, threads)
    }

    /// Both projections.
    pub(super) fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.gate.iter().chain([&self.up])
    }

    /// Elements of scratch memory that [`Self::tile`] needs.
    pub(super) fn scratch(tiling: Tiling) -> usize {
        2 * tiling.elements()
    }

    /// The block's columns of `act(G x) * (U x)`, or of `act(U x)`, for every token of `x`, a row each. A row of `added` is added to the
    /// results of both projections, `[gate | up]`.
    pub(super) fn tile(
        &self,
        isa: Isa,
        tiling: Tiling,
        x: Inputs<'_>,
        added: Option<Vectors<'_>>,
        local: &mut [f32],
        block: &mut impl RowsMut,
    ) {
        let (first, rows) = (block.range().start, block.range().len());
        let (gates, ups) = local.split_at_mut(tiling.elements());
        for token in (0..x.tokens()).step_by(tiling.tokens) {
            let tokens = tiling.tokens.min(x.tokens() - token);
            let part = x.slice(token, tokens);
            if let Some(gate) = &self.gate {
                gate.tile(isa, first, rows, part, gates, tiling.rows);
            }
            self.up.tile(isa, first, rows, part, ups, tiling.rows);
            for t in 0..tokens {
                if let Some(Vectors { x, stride, .. }) = added {
                    let added = x.get((token + t) * stride..).unwrap_or_default().get(first..);
                    let added = added.unwrap_or_default();
                    add(&mut gates[t * tiling.rows..][..rows], added);
                    add(&mut ups[t * tiling.rows..][..rows], &added[self.up.rows()..]);
                }
                let (activation, out) = (self.activation, block.row(token + t));
                let up = &ups[t * tiling.rows..][..rows];
                match self.gate {
                    Some(_) => {
                        let gate = &gates[t * tiling.rows..][..rows];
                        isa.dispatch(Gate { activation, gate, up, out });
                    }
                    None => isa.dispatch(Activate { activation, x: up, out }),
                }
            }
        }
    }
}

/// `out += x`, as far as `out` goes.
fn add(out: &mut [f32], x: &[f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += x);
}

impl GatedLinear {
    pub(super) fn new(op: &op::GatedLinear, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            input: op.input,
            before: Before::norm(op.norm.as_ref(), weights)?,
            pair: GatedPair {
                gate: Some(Projection::new(&op.gate, weights)?),
                up: Projection::new(&op.up, weights)?,
                activation: op.activation,
            },
            added: op.added,
            output: op.output,
        })
    }
}

impl CpuOp for GatedLinear {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let (tokens, isa) = (step.tokens.len(), step.isa);
        let mut output = step.buffers.take(self.output);
        let width = step.buffers.width(self.input);
        let slice = Slice { buffer: self.input, offset: 0, width };
        let input = prepare(&mut prepare_from!(step), slice, &self.before, None)?;
        let rows = self.pair.up.rows();
        let tiling = self.pair.tiling(tokens, step.team.threads());
        let floats = input.vectors();
        let records = means_from!(step).records(floats, width, self.pair.projections())?;
        let x = records.inputs(floats);
        let added = self.added.map(|added| {
            let (x, stride) = (step.buffers.get(added), step.buffers.width(added));
            Vectors { x, stride, tokens }
        });
        let locals = step.locals.get(GatedPair::scratch(tiling))?;
        let split = tiling.columns(output.data(), rows, rows);
        step.team.for_each_with(locals, tiling.tasks(rows), split, |local, _, mut block| {
            self.pair.tile(isa, tiling, x, added, local, &mut block);
        });
        records.end(step.scratch);
        input.end(step.scratch);
        step.buffers.put(output);
        Ok(())
    }
}
