//! `slstm_scan` on the CPU: one task per head, which takes the head's matrices through all tokens of a run.
//!
//! A token's gates depend on the last token's output, so there is no chunked form: each token multiplies the head's four matrices with its
//! `h`. They stay in the cache of the thread that has the head.

use kinglet_models::{CellGating, ForgetGate};

use super::CpuOp;
use super::kernel::dot::{MatMul, Rows, Vectors};
use super::kernel::elementwise::SumOfSquares;
use super::simd::{Isa, Kernel, Simd, load, math, store};
use super::split::ColumnBlock;
use super::step::{Step, by_head};
use crate::Error;
use crate::plan::op;
use crate::weights::Weights;

pub(super) struct SLstmScan {
    op: op::SLstmScan,
    /// `[heads, 4 * head_dim, head_dim]`; empty without memory mixing.
    recurrent: Vec<f32>,
    weight: Vec<f32>,
}

impl SLstmScan {
    pub(super) fn new(op: &op::SLstmScan, weights: &Weights) -> Result<Self, Error> {
        let recurrent = op.recurrent.as_ref().map(|all| weights.vector(all)).transpose()?;
        Ok(Self {
            recurrent: recurrent.unwrap_or_default(),
            weight: weights.norm_weight(&op.cell_norm)?,
            op: op.clone(),
        })
    }
}

impl CpuOp for SLstmScan {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (isa, heads, dim) = (step.isa, op.heads, op.head_dim);
        let mut output = step.buffers.take(op.output);
        let input = step.buffers.get(op.input);
        let stride = step.buffers.width(op.input);
        let spans: Vec<_> = step.runs.iter().map(|run| (run.start, run.len)).collect();
        let split = by_head(step.runs, output.data(), op.state, heads, dim, op.head_state());
        // A token's gates.
        let locals = step.locals.get(4 * dim)?;
        let count = spans.len() * heads;
        step.team.for_each_with(locals, count, split, |local, task, (mut out, state)| {
            let (start, len) = spans[task / heads];
            let head = task % heads;
            let input = &input[start * stride..];
            HeadTask { scan: self, isa, head, len, input, stride }.run(local, &mut out, state);
        });
        step.buffers.put(output);
        Ok(())
    }
}

/// One head of one run.
struct HeadTask<'a> {
    scan: &'a SLstmScan,
    isa: Isa,
    head: usize,
    len: usize,
    /// The run's rows of i, f, z, o.
    input: &'a [f32],
    stride: usize,
}

impl HeadTask<'_> {
    fn run(&self, local: &mut [f32], out: &mut ColumnBlock<'_>, state: &mut [f32]) {
        let op = &self.scan.op;
        let (heads, dim) = (op.heads, op.head_dim);
        let own = 4 * dim * dim;
        let recurrent = self.scan.recurrent.get(self.head * own..(self.head + 1) * own);
        let weight = &self.scan.weight[self.head * dim..][..dim];
        let (cell, h) = state.split_at_mut(3 * dim);
        let (c, rest) = cell.split_at_mut(dim);
        let (n, m) = rest.split_at_mut(dim);
        let gates = &mut local[..4 * dim];
        for t in 0..self.len {
            match recurrent {
                Some(recurrent) => self.isa.dispatch(MatMul {
                    weight: Rows::floats(recurrent, dim, dim),
                    first_row: 0,
                    rows: 4 * dim,
                    x: Vectors { x: h, stride: dim, tokens: 1 },
                    out: &mut *gates,
                    out_stride: 4 * dim,
                }),
                None => gates.fill(0.0),
            }
            for (gate, mixed) in gates.chunks_mut(dim).enumerate() {
                let own = &self.input[t * self.stride + (gate * heads + self.head) * dim..][..dim];
                mixed.iter_mut().zip(own).for_each(|(mixed, own)| *mixed += own);
            }
            let out = out.row(t);
            self.isa.dispatch(CellStep {
                gating: op.gating,
                gates,
                c: &mut *c,
                n: &mut *n,
                m: &mut *m,
                out: &mut *out,
            });
            let mean = self.isa.dispatch(SumOfSquares(out)) / dim as f32;
            let factor = 1.0 / (mean + op.cell_norm.eps).sqrt();
            let gate = &gates[3 * dim..];
            self.isa.dispatch(Finish { factor, weight, gate, out: &mut *out });
            h.copy_from_slice(out);
        }
    }
}

/// One token's step of a head's cells; `out` becomes `s`.
struct CellStep<'a> {
    gating: CellGating,
    /// i, f, z, and what follows them, `[channels]` each.
    gates: &'a [f32],
    c: &'a mut [f32],
    n: &'a mut [f32],
    m: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for CellStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gating, gates, c, n, m, out } = self;
        let dim = out.len();
        for start in (0..dim).step_by(S::LANES) {
            let part = start..(start + S::LANES).min(dim);
            let gate = |which: usize| load(s, &gates[which * dim..][part.clone()]);
            let (i, f, z) = (gate(0), gate(1), math::tanh(s, gate(2)));
            let held = load(s, &c[part.clone()]);
            let forget = match gating {
                CellGating::Sigmoid => {
                    let new = s.mul(math::sigmoid(s, i), z);
                    let cell = s.fma(math::sigmoid(s, f), held, new);
                    store(s, cell, &mut c[part.clone()]);
                    store(s, cell, &mut out[part]);
                    continue;
                }
                CellGating::Exponential(forget) => forget,
            };
            let decay = match forget {
                ForgetGate::Sigmoid => s.sub(s.zero(), math::softplus(s, s.sub(s.zero(), f))),
                ForgetGate::Exponential => f,
            };
            let (sum, before) = (load(s, &n[part.clone()]), load(s, &m[part.clone()]));
            let carried = s.add(decay, before);
            // No token came before if the sum of weights is 0.
            let half = s.splat(0.5);
            let next = s.select_lt(sum, half, i, s.max(carried, i));
            let keep = math::exp(s, s.sub(carried, next));
            let keep = s.select_lt(sum, half, s.zero(), keep);
            let take = math::exp(s, s.sub(i, next));
            let cell = s.fma(take, z, s.mul(keep, held));
            let sum = s.fma(keep, sum, take);
            store(s, cell, &mut c[part.clone()]);
            store(s, sum, &mut n[part.clone()]);
            store(s, next, &mut m[part.clone()]);
            // Beyond the channels sums are 1 too, so that nothing divides by 0.
            store(s, s.div(cell, sum), &mut out[part]);
        }
    }
}

/// `out = out * factor * weight * sigmoid(gate)`.
struct Finish<'a> {
    factor: f32,
    weight: &'a [f32],
    gate: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { factor, weight, gate, out } = self;
        let dim = out.len();
        for start in (0..dim).step_by(S::LANES) {
            let part = start..(start + S::LANES).min(dim);
            let normed = s.mul(load(s, &out[part.clone()]), s.splat(factor));
            let weighted = s.mul(normed, load(s, &weight[part.clone()]));
            let gate = math::sigmoid(s, load(s, &gate[part.clone()]));
            store(s, s.mul(weighted, gate), &mut out[part]);
        }
    }
}
