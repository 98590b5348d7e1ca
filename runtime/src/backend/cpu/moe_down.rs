//! `moe_down` on the CPU.
//!
//! For one or two tokens, a task takes some rows of the result and sums over the chosen experts.
//! For more, each expert's tokens are computed together, so that its weights are read once, and
//! then summed by token.

use super::CpuOp;
use super::inputs::{Inputs, means_from};
use super::kernel::dot::Vectors;
use super::kernel::elementwise::AddScaled;
use super::moe_up::Grouping;
use super::projection::{Projection, Tiling, project};
use super::split::{Group, RowsMut, chunks, scattered};
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId};
use crate::weights::Weights;

pub(super) struct MoeDown {
    input: BufferId,
    routes: BufferId,
    top_k: usize,
    experts: Vec<Projection>,
    shared: Option<Projection>,
    shared_gated: bool,
    inner: usize,
    scale: f32,
    store: bool,
    output: BufferId,
}

impl MoeDown {
    pub(super) fn new(op: &op::MoeDown, weights: &Weights) -> Result<Self, Error> {
        let projection = |matrix| Projection::weights_only(matrix, weights);
        Ok(Self {
            input: op.input,
            routes: op.routes,
            top_k: op.top_k,
            experts: op.experts.iter().map(projection).collect::<Result<_, _>>()?,
            shared: op.shared.as_ref().map(projection).transpose()?,
            shared_gated: op.shared_gated,
            inner: op.inner(),
            scale: op.scale,
            store: op.store,
            output: op.output,
        })
    }
}

impl CpuOp for MoeDown {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        if step.tokens.len() <= 2 { self.few(step) } else { self.many(step) }
    }
}

impl MoeDown {
    /// The input of the shared expert.
    fn shared_input<'a>(&self, input: &'a [f32], stride: usize, tokens: usize) -> Vectors<'a> {
        Vectors { x: &input[self.top_k * self.inner..], stride, tokens }
    }

    /// The shared expert's weight, from a token's routes.
    fn shared_weight(&self, routes: &[f32]) -> f32 {
        if self.shared_gated { routes[2 * self.top_k] } else { 1.0 }
    }

    fn few(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let (tokens, isa, team) = (step.tokens.len(), step.isa, step.team);
        let mut output = step.buffers.take(self.output);
        let hidden = step.buffers.width(self.output);
        if self.store {
            output.data()[..tokens * hidden].fill(0.0);
        }
        let (input, stride) = (step.buffers.get(self.input), step.buffers.width(self.input));
        let (routes, routes_width) =
            (step.buffers.get(self.routes), step.buffers.width(self.routes));
        let Some(first) = self.experts.first() else { return Ok(()) };
        let cols = self.top_k * self.inner + self.shared.as_ref().map_or(0, Projection::cols);
        let row_bytes = first.matrix.row_bytes() * cols / first.cols().max(1);
        let tiling = Tiling::new(hidden, cols, row_bytes, tokens, team.threads());
        // The experts' inputs, one slot after the other.
        let (width, count) = (self.inner, tokens * self.top_k);
        let mut gathered = step.scratch.take(count * width)?;
        for (i, out) in gathered[..count * width].chunks_mut(width).enumerate() {
            let (token, place) = (i / self.top_k, i % self.top_k);
            out.copy_from_slice(&input[token * stride + place * width..][..width]);
        }
        let places = Vectors { x: &gathered, stride: width, tokens: count };
        let records = means_from!(step).records(places, width, self.experts.iter())?;
        let places = records.inputs(places);
        let shared_inputs = self.shared_input(input, stride, tokens);
        let shared_cols = self.shared.as_ref().map_or(0, Projection::cols);
        let shared_records =
            means_from!(step).records(shared_inputs, shared_cols, self.shared.iter())?;
        let shared_inputs = shared_records.inputs(shared_inputs);
        let locals = step.locals.get(tiling.rows)?;
        let split = tiling.columns(output.data(), hidden, hidden);
        team.for_each_with(locals, tiling.tasks(hidden), split, |local, _, mut block| {
            let (from, rows) = (block.range.start, block.range.len());
            let mut add = |projection: &Projection, x: Inputs<'_>, factor: f32, out: &mut [f32]| {
                projection.tile(isa, from, rows, x, local, tiling.rows);
                isa.dispatch(AddScaled { scale: factor, x: &local[..rows], out });
            };
            for token in 0..tokens {
                let route = &routes[token * routes_width..][..routes_width];
                let (experts, weights) = route.split_at(self.top_k);
                let out = block.row(token);
                for (place, (expert, weight)) in experts.iter().zip(weights).enumerate() {
                    let x = places.slice(token * self.top_k + place, 1);
                    add(&self.experts[*expert as usize], x, weight * self.scale, out);
                }
                if let Some(shared) = &self.shared {
                    let weight = self.shared_weight(route);
                    add(shared, shared_inputs.slice(token, 1), weight * self.scale, out);
                }
            }
        });
        records.end(step.scratch);
        shared_records.end(step.scratch);
        step.scratch.give(gathered);
        step.buffers.put(output);
        Ok(())
    }

    fn many(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let (tokens, isa, team) = (step.tokens.len(), step.isa, step.team);
        let mut output = step.buffers.take(self.output);
        let hidden = step.buffers.width(self.output);
        if self.store {
            output.data()[..tokens * hidden].fill(0.0);
        }
        let (input, stride) = (step.buffers.get(self.input), step.buffers.width(self.input));
        let (routes, routes_width) =
            (step.buffers.get(self.routes), step.buffers.width(self.routes));
        let grouped = (routes, routes_width);
        let Grouping { groups, entries } = Grouping::new(grouped, self.top_k, self.experts.len());
        let inner = self.inner;

        let mut gathered = step.scratch.take(entries.len() * inner)?;
        let split = chunks(&mut gathered[..entries.len() * inner], inner);
        team.for_each(entries.len(), split, |i, out| {
            let (token, place) = entries[i];
            out.copy_from_slice(&input[token * stride + place * inner..][..inner]);
        });

        let all = Vectors { x: &gathered, stride: inner, tokens: entries.len() };
        let records = means_from!(step).records(all, inner, self.experts.iter())?;
        let all = records.inputs(all);

        // Each expert's results, in the order of the entries.
        let threads = team.threads().div_ceil(groups.len().max(1));
        let tilings: Vec<_> = groups
            .iter()
            .map(|&(expert, first, end)| {
                let row_bytes = self.experts[expert].matrix.row_bytes();
                Tiling::new(hidden, inner, row_bytes, end - first, threads)
            })
            .collect();
        let rows: Vec<Group> = groups
            .iter()
            .zip(&tilings)
            .map(|(&(_, first, end), tiling)| Group {
                offsets: (first..end).map(|entry| entry * hidden).collect(),
                width: hidden,
                block: tiling.rows,
            })
            .collect();
        let mut results = step.scratch.take(entries.len() * hidden)?;
        let scratch = tilings.iter().map(Tiling::elements).max().unwrap_or(0);
        let locals = step.locals.get(scratch)?;
        let split = scattered(&mut results, &rows);
        let group = split.group_of_tasks();
        team.for_each_with(locals, group.len(), split, |local, task, mut block| {
            let (expert, first, end) = groups[group[task]];
            let (tiling, range) = (tilings[group[task]], block.range());
            for token in (first..end).step_by(tiling.tokens) {
                let tokens = tiling.tokens.min(end - token);
                let x = all.slice(token, tokens);
                let expert = &self.experts[expert];
                expert.tile(isa, range.start, range.len(), x, local, tiling.rows);
                for t in 0..tokens {
                    let result = &local[t * tiling.rows..][..range.len()];
                    block.row(token - first + t).copy_from_slice(result);
                }
            }
        });

        // Sum by token, always in the order of its experts.
        let mut entry_of = vec![0; tokens * self.top_k];
        for (entry, (token, place)) in entries.iter().enumerate() {
            entry_of[token * self.top_k + place] = entry;
        }
        team.for_each(tokens, chunks(output.data(), hidden), |token, out| {
            let weights = &routes[token * routes_width + self.top_k..][..self.top_k];
            for (place, weight) in weights.iter().enumerate() {
                let entry = entry_of[token * self.top_k + place];
                let x = &results[entry * hidden..][..hidden];
                isa.dispatch(AddScaled { scale: weight * self.scale, x, out: &mut *out });
            }
        });
        if let Some(shared) = &self.shared {
            let plain = self.shared_input(input, stride, tokens);
            let (out, scale, cols) = ((output.data(), hidden), self.scale, shared.cols());
            // A token's weight goes to what the expert reads: the product is linear in it.
            let mut weighted =
                step.scratch.take(if self.shared_gated { tokens * cols } else { 0 })?;
            let x = if self.shared_gated {
                for (token, out) in weighted[..tokens * cols].chunks_mut(cols).enumerate() {
                    let weight = self.shared_weight(&routes[token * routes_width..]);
                    let row = &plain.x[token * stride..][..cols];
                    out.iter_mut().zip(row).for_each(|(o, x)| *o = weight * x);
                }
                Vectors { x: &weighted, stride: cols, tokens }
            } else {
                plain
            };
            project(means_from!(step), &[shared], x, out, |out, x| {
                isa.dispatch(AddScaled { scale, x, out });
            })?;
            step.scratch.give(weighted);
        }
        records.end(step.scratch);
        step.scratch.give(gathered);
        step.scratch.give(results);
        step.buffers.put(output);
        Ok(())
    }
}
