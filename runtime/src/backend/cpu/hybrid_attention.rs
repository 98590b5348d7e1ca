//! `hybrid_attention` on the CPU, in three passes over a run: token by token, for each key/value head, the keys that leave the window go into the
//! choice of global keys, the hierarchy and the linear memory; then every query attends, each by itself, to spans of keys with an online
//! softmax; then the run's keys replace those in the state that nothing sees any more.

use super::CpuOp;
use super::attention::{LOWEST, SoftmaxRow};
use super::hybrid_keys::{Head, Span, Strided, Table, code, set_pair};
use super::hybrid_scan::Scan;
use super::kernel::dot::{MatMul, Rows, Vectors};
use super::kernel::gemm::Gemm;
use super::simd::Isa;
use super::split::{Chunks, PerRun, chunks, per_run};
use super::step::{Step, StepRun};
use crate::Error;
use crate::plan::op::{self, HybridLayout, Slice};
use crate::weights::Weights;

/// Keys whose logits are computed together.
const PIECE: usize = 256;

pub(super) struct HybridAttention {
    op: op::HybridAttention,
    layout: HybridLayout,
    /// The share of the linear memory, `[heads]`.
    gates: Vec<f32>,
}

/// What the passes over a run hand on, for one key/value head.
#[derive(Clone, Copy)]
struct Passed {
    /// Codes of the chosen keys, `[tokens, global_top]`.
    chosen: usize,
    /// Records of blocks that became complete, by level.
    means: usize,
    /// `[tokens, group, head_dim + 1]`: what each query reads in the linear memory, and the sum of its weights.
    recalled: usize,
}

impl HybridAttention {
    pub(super) fn new(op: &op::HybridAttention, weights: &Weights) -> Result<Self, Error> {
        let gates = weights.vector(&op.linear_gate)?;
        let gates = gates.into_iter().map(|gate| 1.0 / (1.0 + (-gate).exp())).collect();
        Ok(Self { layout: op.layout(), gates, op: op.clone() })
    }

    /// Query heads of a key/value head.
    fn group(&self) -> usize {
        self.op.heads / self.op.kv_heads.max(1)
    }

    /// Elements that a key/value head of a run hands on.
    fn passed(&self, tokens: usize) -> Passed {
        let passed = self.op.passed(tokens, self.op.blocks(tokens).iter().sum());
        let [chosen, means, recalled] = passed.map(|elements| elements / self.op.kv_heads.max(1));
        Passed { chosen, means, recalled }
    }

    /// The states of the runs, a part for each key/value head.
    fn states<'a>(&self, runs: &'a mut [StepRun<'_>]) -> PerRun<Chunks<'a, f32>> {
        let mut splits = Vec::with_capacity(runs.len());
        for run in runs {
            splits.push(chunks(run.state.dense(self.op.state), self.layout.head_state()));
        }
        per_run(splits, self.op.kv_heads)
    }
}

/// Splits `memory` among key/value heads and runs of `lengths` tokens, of which each takes `of(length)` elements per head.
fn by_run<'a>(
    mut memory: &'a mut [f32],
    lengths: impl Iterator<Item = usize>,
    kv_heads: usize,
    of: impl Fn(usize) -> usize,
) -> PerRun<Chunks<'a, f32>> {
    let one = |len: usize| {
        let (own, rest) = std::mem::take(&mut memory).split_at_mut(of(len) * kv_heads);
        memory = rest;
        chunks(own, of(len))
    };
    per_run(lengths.map(one).collect(), kv_heads)
}

impl CpuOp for HybridAttention {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (kv_heads, group, dim) = (op.kv_heads, self.group(), op.head_dim);
        let (isa, state_len) = (step.isa, self.layout.head_state());
        let lengths: Vec<usize> = step.runs.iter().map(|run| run.len).collect();
        // Where each run's part begins, and what there is in all.
        let mut all = Passed { chosen: 0, means: 0, recalled: 0 };
        let mut begins = Vec::with_capacity(lengths.len());
        for &len in &lengths {
            begins.push(all);
            let own = self.passed(len);
            all.chosen += own.chosen * kv_heads;
            all.means += own.means * kv_heads;
            all.recalled += own.recalled * kv_heads;
        }
        let mut chosen = step.scratch.take(all.chosen)?;
        let mut means = step.scratch.take(all.means)?;
        let mut recalled = step.scratch.take(all.recalled)?;
        let mut output = step.buffers.take(op.output);
        let buffers = &*step.buffers;
        let spans: Vec<_> =
            step.runs.iter().map(|run| (run.start, run.len, run.state.position)).collect();
        let part = |slice: Slice, row: usize, column: usize| {
            let (data, stride) = buffers.slice(slice);
            Strided { data: &data[row * stride + column..], stride }
        };
        let head_of = |run: usize, kv: usize| {
            let (row, len, start) = spans[run];
            let own = Table {
                keys: part(op.keys, row, kv * dim),
                values: part(op.values, row, kv * dim),
                scores: op.scores.map(|scores| part(scores, row, kv)),
            };
            Head { op, layout: &self.layout, own, start, len }
        };
        let tasks = spans.len() * kv_heads;

        let lens = || lengths.iter().copied();
        let split = (
            self.states(step.runs),
            by_run(&mut chosen, lens(), kv_heads, |len| self.passed(len).chosen),
            (
                by_run(&mut means, lens(), kv_heads, |len| self.passed(len).means),
                by_run(&mut recalled, lens(), kv_heads, |len| self.passed(len).recalled),
            ),
        );
        let locals = step.locals.get(Scan::local_len(op))?;
        step.team.for_each_with(locals, tasks, split, |local, task, parts| {
            let (state, chosen, (means, recalled)) = parts;
            let (run, kv) = (task / kv_heads, task % kv_heads);
            let queries = part(op.queries, spans[run].0, kv * group * dim);
            let scan = Scan { isa, head: head_of(run, kv), queries };
            scan.run(local, state, chosen, means, recalled);
        });

        // Tokens by key/value head, as in the output.
        let runs_of_rows: Vec<usize> = lengths
            .iter()
            .enumerate()
            .flat_map(|(run, &len)| std::iter::repeat_n(run, len))
            .collect();
        let states: Vec<&[f32]> =
            step.runs.iter_mut().map(|run| &run.state.dense(op.state)[..]).collect();
        let record = 2 * dim + 1;
        let local = group * (PIECE + dim + dim + 2) + op.tiers.global_top * record;
        let locals = step.locals.get(local)?;
        let count = runs_of_rows.len() * kv_heads;
        let split = chunks(output.data(), group * dim);
        step.team.for_each_with(locals, count, split, |local, task, out| {
            let (row, kv) = (task / kv_heads, task % kv_heads);
            let run = runs_of_rows[row];
            let (first, len, _) = spans[run];
            let (i, own, begin) = (row - first, self.passed(len), begins[run]);
            let top = op.tiers.global_top;
            let codes = &chosen[begin.chosen + kv * own.chosen..][i * top..][..top];
            let recalled = &recalled[begin.recalled + kv * own.recalled..];
            let query = Query {
                layer: self,
                isa,
                head: head_of(run, kv),
                kv,
                i,
                queries: part(op.queries, row, kv * group * dim).row(0, group * dim),
                state: &states[run][kv * state_len..][..state_len],
                codes,
                means: &means[begin.means + kv * own.means..][..own.means],
                recalled: &recalled[i * group * (dim + 1)..][..group * (dim + 1)],
            };
            query.run(local, out);
        });

        let split = self.states(step.runs);
        step.team.for_each(tasks, split, |task, state| {
            let (run, kv) = (task / kv_heads, task % kv_heads);
            let (own, begin) = (self.passed(spans[run].1), begins[run]);
            let codes = &chosen[begin.chosen + kv * own.chosen..][..own.chosen];
            let means = &means[begin.means + kv * own.means..][..own.means];
            keep(&head_of(run, kv), state, codes, means);
        });
        step.buffers.put(output);
        for memory in [chosen, means, recalled] {
            step.scratch.give(memory);
        }
        Ok(())
    }
}

/// A token's queries of a key/value head.
struct Query<'a> {
    layer: &'a HybridAttention,
    isa: Isa,
    head: Head<'a>,
    kv: usize,
    /// The token's number in its run.
    i: usize,
    /// `[group, head_dim]`.
    queries: &'a [f32],
    state: &'a [f32],
    codes: &'a [f32],
    means: &'a [f32],
    recalled: &'a [f32],
}

impl Query<'_> {
    fn run(&self, local: &mut [f32], out: &mut [f32]) {
        let (layout, group) = (&self.layer.layout, self.layer.group());
        let dim = layout.dim;
        let (logits, local) = local.split_at_mut(group * PIECE);
        let (queries, local) = local.split_at_mut(group * dim);
        let (sums, records) = local.split_at_mut(group * (dim + 2));
        let scale = self.layer.op.scale;
        queries.iter_mut().zip(self.queries).for_each(|(q, x)| *q = x * scale);
        for sum in sums.chunks_mut(dim + 2) {
            sum.fill(0.0);
            sum[dim] = LOWEST;
        }
        let t = self.head.start + self.i;
        self.head.visit(t, self.state, self.means, &mut |span| {
            self.attend(&span, queries, logits, sums);
        });
        let count = self.head.chosen(self.i, self.state, self.codes, records);
        let table = Table::records(records, dim);
        self.attend(&Span { table, count }, queries, logits, sums);

        let first = self.head.first_position(self.state);
        let tiers = &self.layer.op.tiers;
        let mixed = t >= tiers.dilated_until && t >= first + tiers.window;
        let rows = out.chunks_mut(dim).zip(sums.chunks(dim + 2));
        for (h, (out, sum)) in rows.enumerate() {
            out.iter_mut().zip(sum).for_each(|(o, s)| *o = s / sum[dim + 1]);
            if mixed {
                let gate = self.layer.gates[self.kv * group + h];
                let read = &self.recalled[h * (dim + 1)..][..dim + 1];
                let weights = read[dim] + self.layer.op.eps;
                let mix = |o: &mut f32, m: &f32| *o = (1.0 - gate) * *o + gate * (m / weights);
                out.iter_mut().zip(read).for_each(|(o, m)| mix(o, m));
            }
        }
    }

    /// Adds a span of keys to the weighted `sums`, `[group, head_dim + 2]`.
    fn attend(&self, span: &Span<'_>, queries: &[f32], logits: &mut [f32], sums: &mut [f32]) {
        let (dim, group) = (self.layer.layout.dim, self.layer.group());
        let Span { table, count } = span;
        for first in (0..*count).step_by(PIECE) {
            let rows = PIECE.min(count - first);
            self.isa.dispatch(MatMul {
                weight: Rows::floats(table.keys.data, dim, table.keys.stride),
                first_row: first,
                rows,
                x: Vectors { x: queries, stride: dim, tokens: group },
                out: &mut *logits,
                out_stride: PIECE,
            });
            for (logits, sum) in logits.chunks_mut(PIECE).zip(sums.chunks_mut(dim + 2)) {
                if let Some(Strided { data, stride }) = table.scores {
                    let scores = data[first * stride..].iter().step_by(stride);
                    logits[..rows].iter_mut().zip(scores).for_each(|(logit, s)| *logit += s);
                }
                self.isa.dispatch(SoftmaxRow {
                    scores: &mut logits[..rows],
                    first: 0,
                    end: rows,
                    out: sum,
                });
            }
            self.isa.dispatch(Gemm {
                m: group,
                n: dim,
                k: rows,
                a: logits,
                a_row: PIECE,
                a_col: 1,
                b: &table.values.data[first * table.values.stride..],
                b_row: table.values.stride,
                c: &mut *sums,
                c_row: dim + 2,
                accumulate: true,
            });
        }
    }
}

/// Brings the state to the end of the run.
fn keep(head: &Head<'_>, state: &mut [f32], codes: &[f32], means: &[f32]) {
    let (layout, tiers) = (head.layout, &head.op.tiers);
    let (dim, ring) = (layout.dim, layout.ring);
    let (start, end, first) = (head.start, head.start + head.len, head.first_position(state));
    let copy = |state: &mut [f32], j: usize, to: usize| match j.checked_sub(start) {
        Some(own) => store(layout, head.own, own, state, to),
        None => {
            let from = j % ring;
            state.copy_within(from * dim..(from + 1) * dim, to * dim);
            let values = layout.values();
            state.copy_within(values + from * dim..values + (from + 1) * dim, values + to * dim);
            state[layout.scores() + to] = state[layout.scores() + from];
        }
    };
    // Keys that leave the ring, unless no later token sees them.
    if end < tiers.dilated_until {
        for j in start.saturating_sub(ring).max(first)..end.saturating_sub(ring) {
            for (level, &(row, count)) in (1..).zip(&layout.levels) {
                if count > 0 && j.is_multiple_of(1 << level) {
                    copy(state, j, row + (j >> level) % count);
                }
            }
        }
    }
    for j in start..end.min(tiers.global_first) {
        copy(state, j, layout.first + j);
    }
    let last = codes.len() - layout.top_count;
    for (slot, &code) in codes[last..].iter().enumerate() {
        if let Some(i) = (code as usize).checked_sub(code::LEAVING) {
            let j = start + i - tiers.window;
            copy(state, j, layout.top + slot);
            set_pair(&mut state[layout.positions() + 2 * slot..], j);
        }
    }
    let mut before = 0;
    for (level, capacity) in head.op.blocks(head.len).into_iter().enumerate() {
        let (done, size) = (head.done(level), head.op.block_size(level));
        let records = Table::records(&means[before * (2 * dim + 1)..], dim);
        for block in done..end.saturating_sub(tiers.window) / size {
            store(layout, records, block - done, state, head.mean_row(level, block));
        }
        before += capacity;
    }
    for j in start.max(end.saturating_sub(ring))..end {
        copy(state, j, j % ring);
    }
    set_pair(&mut state[layout.seen()..], end - first);
}

/// Copies a row of `table` to row `to` of the state.
fn store(layout: &HybridLayout, table: Table<'_>, row: usize, state: &mut [f32], to: usize) {
    let dim = layout.dim;
    state[to * dim..][..dim].copy_from_slice(table.keys.row(row, dim));
    state[layout.values() + to * dim..][..dim].copy_from_slice(table.values.row(row, dim));
    let score = table.scores.map_or(0.0, |scores| scores.row(row, 1)[0]);
    state[layout.scores() + to] = score;
}
