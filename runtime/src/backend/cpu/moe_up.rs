//! `moe_up` on the CPU: groups the tokens of each expert, and computes the shared expert in the
//! same section.

use super::CpuOp;
use super::gated_linear::GatedPair;
use super::inputs::{Inputs, means_from};
use super::kernel::dot::Vectors;
use super::projection::{Before, Projection, prepare, prepare_from};
use super::split::{Group, chunks, scattered};
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId, Slice};
use crate::weights::Weights;

pub(super) struct MoeUp {
    input: BufferId,
    before: Before,
    own_inputs: bool,
    routes: BufferId,
    top_k: usize,
    experts: Vec<GatedPair>,
    shared: Option<GatedPair>,
    inner: usize,
    hidden: usize,
    output: BufferId,
}

impl MoeUp {
    pub(super) fn new(op: &op::MoeUp, weights: &Weights) -> Result<Self, Error> {
        let pair = |expert: &op::UpMatrices| {
            let matrix = |matrix| Projection::weights_only(matrix, weights);
            Ok::<_, Error>(GatedPair {
                gate: expert.gate.as_ref().map(matrix).transpose()?,
                up: matrix(&expert.up)?,
                activation: op.activation,
            })
        };
        Ok(Self {
            input: op.input,
            before: Before::norm(op.norm.as_ref(), weights)?,
            own_inputs: op.own_inputs,
            routes: op.routes,
            top_k: op.top_k,
            experts: op.experts.iter().map(pair).collect::<Result<_, _>>()?,
            shared: op.shared.as_ref().map(pair).transpose()?,
            inner: op.inner(),
            hidden: op.hidden(),
            output: op.output,
        })
    }
}

/// Which tokens go to which expert.
pub(super) struct Grouping {
    /// `(expert, first entry, end)` for each expert that is used.
    pub groups: Vec<(usize, usize, usize)>,
    /// `(token, slot among its experts)`, by expert.
    pub entries: Vec<(usize, usize)>,
}

impl Grouping {
    /// From what `moe_route` wrote, `[T, width]`, the experts' numbers first.
    pub(super) fn new((routes, width): (&[f32], usize), top_k: usize, experts: usize) -> Self {
        let mut next = vec![0; experts + 1];
        let chosen = || routes.chunks(width).map(|row| &row[..top_k]);
        for expert in chosen().flatten() {
            next[*expert as usize + 1] += 1;
        }
        for i in 0..experts {
            next[i + 1] += next[i];
        }
        let groups = (0..experts).map(|e| (e, next[e], next[e + 1]));
        let groups = groups.filter(|(_, first, end)| first < end).collect();
        let mut entries = vec![(0, 0); next[experts]];
        for (token, row) in chosen().enumerate() {
            for (place, expert) in row.iter().enumerate() {
                let next = &mut next[*expert as usize];
                entries[*next] = (token, place);
                *next += 1;
            }
        }
        Self { groups, entries }
    }
}

impl CpuOp for MoeUp {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let (tokens, isa, team) = (step.tokens.len(), step.isa, step.team);
        let all_inputs = step.buffers.width(self.input);
        let width = self.hidden;
        let stride = step.buffers.width(self.output);
        let mut output = step.buffers.take(self.output);
        let slice = Slice { buffer: self.input, offset: 0, width: all_inputs };
        let input = prepare(&mut prepare_from!(step), slice, &self.before, None)?;
        let x = input.vectors();
        let routes = (step.buffers.get(self.routes), step.buffers.width(self.routes));
        let Grouping { groups, entries } = Grouping::new(routes, self.top_k, self.experts.len());

        // Gather the tokens of every expert.
        let mut gathered = step.scratch.take(entries.len() * width)?;
        let gathered_used = &mut gathered[..entries.len() * width];
        let gather = |i: usize, out: &mut [f32]| {
            let (token, place) = entries[i];
            let own = if self.own_inputs { place * width } else { 0 };
            out.copy_from_slice(&x.x[token * x.stride + own..][..width]);
        };
        if tokens < 4 {
            gathered_used.chunks_mut(width).enumerate().for_each(|(i, out)| gather(i, out));
        } else {
            team.for_each(entries.len(), chunks(gathered_used, width), gather);
        }

        // Each group's inputs and tiling. The shared expert comes last.
        let all = Vectors { x: &gathered, stride: width, tokens: entries.len() };
        let experts = self.experts.iter().flat_map(GatedPair::projections);
        let records = means_from!(step).records(all, width, experts)?;
        let all = records.inputs(all);
        let shared = self.shared.iter().flat_map(GatedPair::projections);
        let shared_records = means_from!(step).records(x, width, shared)?;
        let mut work: Vec<(&GatedPair, Inputs<'_>)> = Vec::with_capacity(groups.len() + 1);
        let mut places = Vec::with_capacity(groups.len() + 1);
        for &(expert, first, end) in &groups {
            work.push((&self.experts[expert], all.slice(first, end - first)));
            let offset = |(token, place): &(usize, usize)| token * stride + place * self.inner;
            places.push(entries[first..end].iter().map(offset).collect::<Vec<_>>());
        }
        if let Some(shared) = &self.shared {
            work.push((shared, shared_records.inputs(x)));
            let offset = self.top_k * self.inner;
            places.push((0..tokens).map(|token| token * stride + offset).collect());
        }
        // The groups share the threads.
        let threads = team.threads().div_ceil(work.len().max(1));
        let tilings: Vec<_> =
            work.iter().map(|(pair, x)| pair.tiling(x.tokens(), threads)).collect();
        let rows: Vec<Group> = work
            .iter()
            .zip(&tilings)
            .zip(places)
            .map(|(((pair, _), tiling), offsets)| Group {
                offsets,
                width: pair.up.rows(),
                block: tiling.rows,
            })
            .collect();
        let scratch = tilings.iter().map(|tiling| GatedPair::scratch(*tiling)).max().unwrap_or(0);
        let locals = step.locals.get(scratch)?;
        let split = scattered(output.data(), &rows);
        let group = split.group_of_tasks();
        team.for_each_with(locals, group.len(), split, |local, task, mut block| {
            let (pair, x) = work[group[task]];
            pair.tile(isa, tilings[group[task]], x, None, local, &mut block);
        });
        records.end(step.scratch);
        shared_records.end(step.scratch);
        input.end(step.scratch);
        step.scratch.give(gathered);
        step.buffers.put(output);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_in_its_experts_group() {
        let routes = [2.0, 0.0, 0.6, 0.4, 0.0, 1.0, 0.5, 0.5, 2.0, 1.0, 0.9, 0.1];
        let grouping = Grouping::new((&routes, 4), 2, 4);
        assert_eq!(grouping.groups, [(0, 0, 2), (1, 2, 4), (2, 4, 6)]);
        assert_eq!(grouping.entries, [(0, 1), (1, 0), (1, 1), (2, 1), (0, 0), (2, 0)]);
    }
}
