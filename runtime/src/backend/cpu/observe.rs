//! Observes the inputs of a model's projections while it runs, and gathers their second moments.
//!
//! Before an op runs, its input is in its buffers. The observer applies the prologue of the
//! projection, as the op itself will, and sums `x x^T` over the tokens. Ops are not involved.

#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, HashMap};

use super::CpuExecutable;
use super::kernel::dot::Vectors;
use super::kernel::gemm::Gemm;
use super::moe_up::Grouping;
use super::projection::{Before, prepare, prepare_from};
use super::simd::Isa;
use super::split::chunks;
use super::state::CpuState;
use super::step::{Step, StepRun};
use super::team::Team;
use crate::analysis::ExpertCounts;
use crate::backend::executable::Logits;
use crate::error::grow;
use crate::plan::Plan;
use crate::plan::op::{ExpertInput, InputPart, Op, Preparation, ProjectionInput, Slice};
use crate::weights::Weights;
use crate::{Activations, Error};

/// An input of projections. Several matrices can have the same input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Site {
    /// Index of the op in the plan.
    pub op: usize,
    /// For a mixture of experts, which input.
    pub part: InputPart,
}

/// `sum of x x^T` over the tokens seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moments {
    /// Width of `x`.
    pub width: usize,
    /// Number of tokens.
    pub tokens: u64,
    /// `[width, width]`. Only the upper triangle is filled until [`Moments::mirror`].
    pub sum: Vec<f32>,
}

/// Rows per task.
const ROWS: usize = 48;

impl Moments {
    fn add(&mut self, team: &Team, isa: Isa, x: Vectors<'_>, width: usize) -> Result<(), Error> {
        self.width = width;
        self.tokens += x.tokens as u64;
        grow(&mut self.sum, width * width, "second moments")?;
        let split = chunks(&mut self.sum[..width * width], ROWS * width);
        team.for_each(width.div_ceil(ROWS), split, |task, rows| {
            let first = task * ROWS;
            isa.dispatch(Gemm {
                m: rows.len() / width,
                n: width - first,
                k: x.tokens,
                a: &x.x[first..],
                a_row: 1,
                a_col: x.stride,
                b: &x.x[first..],
                b_row: x.stride,
                c: &mut rows[first..],
                c_row: width,
                accumulate: true,
            });
        });
        Ok(())
    }

    /// Fills in the lower triangle.
    pub(crate) fn mirror(&mut self) {
        for row in 0..self.width {
            for column in 0..row {
                self.sum[row * self.width + column] = self.sum[column * self.width + row];
            }
        }
    }
}

/// Gathers the moments of some inputs.
pub(crate) struct Observer {
    moments: BTreeMap<Site, Moments>,
    /// The prologue of each observed op's projections.
    befores: BTreeMap<usize, Before>,
    /// Ops with the matrices of an earlier op, whose moments they add to: layers may share them.
    again: HashMap<usize, usize>,
    last: usize,
}

impl Observer {
    /// Creates an observer of the inputs `sites`.
    ///
    /// # Errors
    /// If a small tensor of an op can't be read.
    pub(crate) fn new(
        plan: &Plan,
        weights: &Weights,
        sites: impl IntoIterator<Item = Site>,
    ) -> Result<Self, Error> {
        let moments: BTreeMap<Site, Moments> =
            sites.into_iter().map(|site| (site, Moments::default())).collect();
        let mut wanted: Vec<usize> = moments.keys().map(|site| site.op).collect();
        let (mut first, mut again) = (HashMap::new(), HashMap::new());
        for (index, op) in plan.ops.iter().enumerate() {
            let sites = op.description().sites();
            let Some(matrix) = sites.first().map(|site| site.matrix) else { continue };
            let before = *first.entry((&matrix.tensor.name, matrix.row_offset)).or_insert(index);
            if before != index && wanted.contains(&before) {
                again.insert(index, before);
            }
        }
        wanted.extend(again.keys());
        let mut befores = BTreeMap::new();
        for op in wanted {
            let input = plan.ops.get(op).and_then(|op| op.description().projection_input());
            let before = match input.map_or(Preparation::Nothing, |input| input.preparation) {
                Preparation::Nothing => Before::Nothing,
                Preparation::Norm(norm) => Before::norm(Some(norm), weights)?,
                Preparation::Prologue(prologue) => Before::new(prologue, weights)?,
            };
            befores.insert(op, before);
        }
        let last = befores.keys().next_back().copied().unwrap_or(0);
        Ok(Self { moments, befores, again, last })
    }

    /// The moments gathered.
    pub(crate) fn into_moments(self) -> BTreeMap<Site, Moments> {
        let mut moments = self.moments;
        moments.values_mut().for_each(Moments::mirror);
        moments
    }

    /// Observes the inputs of op `index`, which runs next. Returns whether anything after it
    /// remains to be observed.
    fn look(&mut self, index: usize, op: &Op, step: &mut Step<'_, '_>) -> Result<bool, Error> {
        let Some(before) = self.befores.get(&index) else { return Ok(index < self.last) };
        let Some(ProjectionInput { buffer, columns, experts, .. }) =
            op.description().projection_input()
        else {
            return Ok(index < self.last);
        };
        let at = self.again.get(&index).copied().unwrap_or(index);
        let columns = columns.unwrap_or(0..step.buffers.width(buffer));
        let slice = Slice { buffer, offset: columns.start, width: columns.len() };
        let (team, isa) = (step.team, step.isa);
        if slice.width > 0 {
            let input = prepare(&mut prepare_from!(step), slice, before, None)?;
            let x = input.vectors();
            if let Some(moments) = self.moments.get_mut(&Site { op: at, part: InputPart::All }) {
                moments.add(team, isa, x, slice.width)?;
            }
            if let Some(ExpertInput { routes, top_k, count, inner: None }) = experts {
                let routes = (step.buffers.get(routes), step.buffers.width(routes));
                let row = |token: usize, _: usize| &x.x[token * x.stride..][..slice.width];
                self.experts(at, team, isa, (routes, top_k, count), slice.width, row)?;
            }
            input.end(step.scratch);
        }
        if let Some(ExpertInput { routes, top_k, count, inner: Some(inner) }) = experts {
            let routes = (step.buffers.get(routes), step.buffers.width(routes));
            let (x, stride) = (step.buffers.get(buffer), step.buffers.width(buffer));
            let row = |token: usize, place: usize| &x[token * stride + place * inner..][..inner];
            self.experts(at, team, isa, (routes, top_k, count), inner, row)?;
        }
        Ok(index < self.last)
    }

    /// Adds each expert's tokens. `row(token, place)` is the input of the token's expert at
    /// `place`.
    fn experts<'a>(
        &mut self,
        op: usize,
        team: &Team,
        isa: Isa,
        ((routes, routes_width), top_k, experts): ((&[f32], usize), usize, usize),
        width: usize,
        row: impl Fn(usize, usize) -> &'a [f32],
    ) -> Result<(), Error> {
        let Grouping { groups, entries } = Grouping::new((routes, routes_width), top_k, experts);
        let mut gathered = Vec::new();
        for (expert, first, end) in groups {
            let site = Site { op, part: InputPart::Expert(expert) };
            let Some(moments) = self.moments.get_mut(&site) else { continue };
            gathered.clear();
            for &(token, place) in &entries[first..end] {
                // An error of the expert reaches the residual stream times this.
                let weight = routes[token * routes_width + top_k + place];
                gathered.extend(row(token, place).iter().map(|x| x * weight));
            }
            let x = Vectors { x: &gathered, stride: width, tokens: end - first };
            moments.add(team, isa, x, width)?;
        }
        Ok(())
    }
}

impl CpuExecutable {
    /// Runs `tokens` from an empty state and lets `observer` see its inputs. Skips what comes after
    /// them, and the logits.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(crate) fn observe(&self, tokens: &[u32], observer: &mut Observer) -> Result<(), Error> {
        self.watch(tokens, |index, op, step| observer.look(index, op, step))
    }

    /// Runs `tokens` from an empty state and adds what its routers choose to `counts`.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(crate) fn count_experts(
        &self,
        tokens: &[u32],
        counts: &mut [ExpertCounts],
    ) -> Result<(), Error> {
        let last = counts.iter().map(|counts| counts.op).max();
        self.watch(tokens, |index, op, step| {
            let input = op.description().projection_input();
            let experts = input.and_then(|input| input.experts);
            let counts = counts.iter_mut().find(|counts| counts.op == index);
            if let Some((counts, ExpertInput { routes, top_k, .. })) = counts.zip(experts) {
                let width = step.buffers.width(routes);
                for row in step.buffers.get(routes).chunks(width) {
                    for (expert, weight) in row[..top_k].iter().zip(&row[top_k..]) {
                        counts.tokens[*expert as usize] += 1;
                        counts.weights[*expert as usize] += f64::from(*weight);
                    }
                }
            }
            Ok(last.is_some_and(|last| index < last))
        })
    }

    /// Runs `tokens` from an empty state and calls `look` before each op, until it returns `false`.
    fn watch(
        &self,
        tokens: &[u32],
        mut look: impl FnMut(usize, &Op, &mut Step<'_, '_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut guard = self.workspace.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let workspace = &mut *guard;
        let mut state = CpuState::new(&self.plan)?;
        let mut logits = Vec::new();
        for tokens in tokens.chunks(self.chunk) {
            workspace.resize(tokens.len())?;
            let (len, wanted) = (tokens.len(), Logits::None);
            let run = StepRun {
                start: 0,
                len,
                state: &mut state,
                wanted,
                logits: &mut logits,
                stream: None,
            };
            let mut step = Step {
                team: &self.team,
                isa: self.isa,
                tokens,
                vectors: None,
                runs: &mut [run],
                buffers: &mut workspace.buffers,
                scratch: &mut workspace.scratch,
                locals: &mut workspace.locals,
                // Observed inputs should be exact.
                activations: Activations::F32,
            };
            for (index, (op, plan)) in self.ops.iter().zip(&self.plan.ops).enumerate() {
                if !look(index, plan, &mut step)? {
                    break;
                }
                op.run(&mut step)?;
            }
            state.position += len;
        }
        Ok(())
    }
}
