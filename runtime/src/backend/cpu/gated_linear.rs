//! `gated_linear` on the CPU: a task computes the same rows of both projections, then gates them.

use kinglet_models::Activation;

use super::CpuOp;
use super::inputs::{Inputs, means_from};
use super::kernel::elementwise::Gate;
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
    output: BufferId,
}

/// Two projections of one shape, the first gating the second.
pub(super) struct GatedPair {
    pub gate: Projection,
    pub up: Projection,
    pub activation: Activation,
}

impl GatedPair {
    pub(super) fn tiling(&self, tokens: usize, threads: usize) -> Tiling {
        let (rows, cols) = (self.gate.rows(), self.gate.cols());
        // A row of the pair is two rows of weights.
        Tiling::new(rows, cols, 2 * self.gate.matrix.row_bytes(), tokens, threads)
    }

    /// Both projections.
    pub(super) fn projections(&self) -> impl Iterator<Item = &Projection> {
        [&self.gate, &self.up].into_iter()
    }

    /// Elements of scratch memory that [`Self::tile`] needs.
    pub(super) fn scratch(tiling: Tiling) -> usize {
        2 * tiling.elements()
    }

    /// Computes the block's columns of `act(G x) * (U x)`, one row per token of `x`.
    pub(super) fn tile(
        &self,
        isa: Isa,
        tiling: Tiling,
        x: Inputs<'_>,
        local: &mut [f32],
        block: &mut impl RowsMut,
    ) {
        let (first, rows) = (block.range().start, block.range().len());
        let (gates, ups) = local.split_at_mut(tiling.elements());
        for token in (0..x.tokens()).step_by(tiling.tokens) {
            let tokens = tiling.tokens.min(x.tokens() - token);
            let part = x.slice(token, tokens);
            self.gate.tile(isa, first, rows, part, gates, tiling.rows);
            self.up.tile(isa, first, rows, part, ups, tiling.rows);
            for t in 0..tokens {
                isa.dispatch(Gate {
                    activation: self.activation,
                    gate: &gates[t * tiling.rows..][..rows],
                    up: &ups[t * tiling.rows..][..rows],
                    out: block.row(token + t),
                });
            }
        }
    }
}

impl GatedLinear {
    pub(super) fn new(op: &op::GatedLinear, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            input: op.input,
            before: Before::norm(&op.norm, weights)?,
            pair: GatedPair {
                gate: Projection::new(&op.gate, weights)?,
                up: Projection::new(&op.up, weights)?,
                activation: op.activation,
            },
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
        let rows = self.pair.gate.rows();
        let tiling = self.pair.tiling(tokens, step.team.threads());
        let floats = input.vectors();
        let records = means_from!(step).records(floats, width, self.pair.projections())?;
        let x = records.inputs(floats);
        let locals = step.locals.get(GatedPair::scratch(tiling))?;
        let split = tiling.columns(output.data(), rows, rows);
        step.team.for_each_with(locals, tiling.tasks(rows), split, |local, _, mut block| {
            self.pair.tile(isa, tiling, x, local, &mut block);
        });
        records.end(step.scratch);
        input.end(step.scratch);
        step.buffers.put(output);
        Ok(())
    }
}
