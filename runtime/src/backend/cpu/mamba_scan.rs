//! `mamba_scan` on the CPU: blocks of channels pass over all tokens of a run with their state in
//! cache.
//!
//! Mamba's decay differs for every channel and state element, so a chunk of the scan is not a
//! matrix product. A chunk gains only that its state is read and written once.

use super::CpuOp;
use super::kernel::elementwise::RmsNorm;
use super::simd::{Kernel, Simd, load, math, store};
use super::split::{ColumnBlock, columns, per_run};
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId, Slice, StateId};
use crate::weights::Weights;

/// Channels per task: with a state of 16, its state and decays take 8 KiB.
const BLOCK: usize = 64;

pub(super) struct MambaScan {
    x: BufferId,
    z: Slice,
    dt: BufferId,
    b: Slice,
    c: Slice,
    heads: usize,
    head_stride: usize,
    bc_norm_eps: Option<f32>,
    /// Of the norms of B and C; empty without weights.
    bc_weights: [Vec<f32>; 2],
    /// `-exp(a_log)`, `[state, inner]`.
    a: Vec<f32>,
    d: Vec<f32>,
    inner: usize,
    state_dim: usize,
    state: StateId,
    output: BufferId,
}

impl MambaScan {
    pub(super) fn new(op: &op::MambaScan, weights: &Weights) -> Result<Self, Error> {
        let a_log = weights.vector(&op.a_log)?;
        let mut a = vec![0.0; a_log.len()];
        for (i, value) in a_log.iter().enumerate() {
            a[i % op.state_dim * op.inner + i / op.state_dim] = -value.exp();
        }
        Ok(Self {
            x: op.x,
            z: op.z,
            dt: op.dt,
            b: op.b,
            c: op.c,
            heads: op.heads,
            head_stride: op.head_stride,
            bc_norm_eps: op.bc_norm.as_ref().map(|norm| norm.eps),
            bc_weights: match op.bc_weights() {
                Some([b, c]) => [weights.vector(b)?, weights.vector(c)?],
                None => Default::default(),
            },
            a,
            d: weights.vector(&op.d)?,
            inner: op.inner,
            state_dim: op.state_dim,
            state: op.state,
            output: op.output,
        })
    }
}

impl CpuOp for MambaScan {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let (isa, inner, n) = (step.isa, self.inner, self.state_dim);
        let tokens = step.tokens.len();
        // B and C of every head of every token, side by side.
        let heads = self.heads;
        let mut bc = step.scratch.take(tokens * heads * 2 * n)?;
        let [b_weight, c_weight] = &self.bc_weights;
        for (slice, offset, weight) in [(self.b, 0, b_weight), (self.c, n, c_weight)] {
            let (x, stride) = step.buffers.slice(slice);
            for place in 0..tokens * heads {
                let x = &x[place / heads * stride + place % heads * self.head_stride..][..n];
                let out = &mut bc[place * 2 * n + offset..][..n];
                match self.bc_norm_eps {
                    Some(eps) => isa.dispatch(RmsNorm { x, weight, bias: &[], eps, out }),
                    None => out.copy_from_slice(x),
                }
            }
        }
        let mut output = step.buffers.take(self.output);
        let (x, dt) = (step.buffers.get(self.x), step.buffers.get(self.dt));
        let (z, z_stride) = step.buffers.slice(self.z);
        let blocks = inner.div_ceil(BLOCK);
        let spans: Vec<_> = step.runs.iter().map(|run| (run.start, run.len)).collect();
        let mut out = output.data();
        let mut splits = Vec::with_capacity(spans.len());
        for run in step.runs.iter_mut() {
            let (own, rest) = out.split_at_mut(run.len * inner);
            out = rest;
            let state = columns(run.state.dense(self.state), inner, inner, BLOCK);
            splits.push((columns(own, inner, inner, BLOCK), state));
        }
        let split = per_run(splits, blocks);
        step.team.for_each(spans.len() * blocks, split, |task, (out, state)| {
            let (start, len) = spans[task / blocks];
            isa.dispatch(ScanTask {
                op: self,
                len,
                x: &x[start * inner..],
                dt: &dt[start * inner..],
                z: (&z[start * z_stride..], z_stride),
                bc: &bc[start * heads * 2 * n..],
                out,
                state,
            });
        });
        step.buffers.put(output);
        step.scratch.give(bc);
        Ok(())
    }
}

/// Some channels of one run.
struct ScanTask<'a, 'o> {
    op: &'a MambaScan,
    len: usize,
    x: &'a [f32],
    dt: &'a [f32],
    z: (&'a [f32], usize),
    bc: &'a [f32],
    out: ColumnBlock<'o>,
    state: ColumnBlock<'o>,
}

impl Kernel for ScanTask<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let range = self.out.range.clone();
        let (inner, n) = (self.op.inner, self.op.state_dim);
        let (heads, width) = (self.op.heads, inner / self.op.heads);
        for t in 0..self.len {
            let mut start = 0;
            while start < range.len() {
                // Lanes are channels of one head.
                let head = (range.start + start) / width;
                let last = range.len().min((head + 1) * width - range.start);
                let end = (start + S::LANES).min(last);
                let (b, c) = self.bc[(t * heads + head) * 2 * n..][..2 * n].split_at(n);
                let channels = range.start + start..range.start + end;
                let x = load(s, &self.x[t * inner..][channels.clone()]);
                let dt = math::softplus(s, load(s, &self.dt[t * inner..][channels.clone()]));
                let input = s.mul(dt, x);
                let mut y = s.mul(load(s, &self.op.d[channels.clone()]), x);
                for i in 0..n {
                    let a = load(s, &self.op.a[i * inner..][channels.clone()]);
                    let state = &mut self.state.row(i)[start..end];
                    let decayed = s.mul(math::exp(s, s.mul(dt, a)), load(s, state));
                    let h = s.fma(input, s.splat(b[i]), decayed);
                    store(s, h, state);
                    y = s.fma(s.splat(c[i]), h, y);
                }
                let (z, stride) = self.z;
                let gate = math::silu(s, load(s, &z[t * stride..][channels]));
                store(s, s.mul(y, gate), &mut self.out.row(t)[start..end]);
                start = end;
            }
        }
    }
}
