//! `gated_delta_scan` on the CPU: one task a value head.
//!
//! A run of a few tokens steps through the recurrence. A longer one goes in chunks of [`CHUNK`] tokens as matrix products (Yang et
//! al., 2024, section 3.3). With `s_i` the sum of log decays up to token `i` of the chunk, a number or a vector over the channels
//! of keys, and `S` the state before the chunk,
//!
//! ```text
//! L[i,j] = -beta_i k_i . (e^(s_i - s_j) k_j)   for j < i, else 0
//! P[i,j] = q_i . (e^(s_i - s_j) k_j)           for j <= i, else 0
//! U = diag(beta) V - diag(beta) (e^s K) S + L U       solved row by row
//! Y = (e^s Q) S + P U
//! S = diag(e^(s_last)) S + (e^(s_last - s) K)^T U
//! ```
//!
//! which is the recurrence of the op, unrolled: row `i` of `U` is the token's update of the state. All exponents are at most 0.

use super::CpuOp;
use super::kernel::decay::{Decay, DecayRow};
use super::kernel::delta::{
    BLOCK, ChannelDecays, DeltaStep, LogDecay, ScaleRows, SolveBlock, Unit,
};
use super::kernel::dot::{MatMul, Rows, Vectors};
use super::kernel::gemm::Gemm;
use super::simd::Isa;
use super::split::ColumnBlock;
use super::step::{Step, by_head};
use crate::Error;
use crate::plan::op;
use crate::weights::Weights;

/// Tokens of a chunk: whole register tiles of rows, and few. What the tokens of a chunk take from one another nearly cancels where their
/// keys are alike, so rounding errors grow with its length; and the products with the state, which are most of the work, don't
/// shrink with it.
const CHUNK: usize = 24;

/// Runs up to this length step through the recurrence.
const STEPWISE: usize = 8;

/// Rows of a chunk that are multiplied together.
const STRIP: usize = 16;

pub(super) struct GatedDeltaScan {
    op: op::GatedDeltaScan,
    /// `-exp(a_log)`.
    a: Vec<f32>,
    dt_bias: Vec<f32>,
}

impl GatedDeltaScan {
    pub(super) fn new(op: &op::GatedDeltaScan, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            a: weights.vector(&op.a_log)?.into_iter().map(|a| -a.exp()).collect(),
            dt_bias: weights.vector(&op.dt_bias)?,
            op: op.clone(),
        })
    }

    /// Scratch of a thread: see [`HeadTask::chunk`].
    fn local_len(&self) -> usize {
        let op = &self.op;
        let per_channel = if op.per_channel { (2 * BLOCK + 1) * op.key_dim } else { 0 };
        2 * CHUNK * CHUNK
            + (5 * CHUNK + 1) * op.key_dim
            + 2 * CHUNK * op.value_dim
            + CHUNK * op.decays()
            + per_channel
    }
}

impl CpuOp for GatedDeltaScan {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (isa, heads) = (step.isa, op.value_heads);
        let mut output = step.buffers.take(op.output);
        let (qkv, stride) = (step.buffers.get(op.qkv), step.buffers.width(op.qkv));
        let decay = step.buffers.slice(op.decay);
        let beta = step.buffers.slice(op.beta);
        let spans: Vec<_> = step.runs.iter().map(|run| (run.start, run.len)).collect();
        let split = by_head(
            step.runs,
            output.data(),
            op.state,
            heads,
            op.value_dim,
            op.key_dim * op.value_dim,
        );
        let locals = step.locals.get(self.local_len())?;
        let count = spans.len() * heads;
        step.team.for_each_with(locals, count, split, |local, task, (mut out, state)| {
            let (start, len) = spans[task / heads];
            let qkv = &qkv[start * stride..];
            let decay = (&decay.0[start * decay.1..], decay.1);
            let beta = (&beta.0[start * beta.1..], beta.1);
            let task = HeadTask { scan: self, isa, head: task % heads, qkv, stride, decay, beta };
            task.run(len, local, &mut out, state);
        });
        step.buffers.put(output);
        Ok(())
    }
}

/// One value head of one run.
struct HeadTask<'a> {
    scan: &'a GatedDeltaScan,
    isa: Isa,
    head: usize,
    /// The run's rows of q, k, v, `stride` apart.
    qkv: &'a [f32],
    stride: usize,
    /// The run's rows of decays before their softplus, and of betas before their sigmoid, with the distance between rows.
    decay: (&'a [f32], usize),
    beta: (&'a [f32], usize),
}

/// Cuts `len` elements off the front of what is left of a thread's scratch.
fn part<'a>(local: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (part, rest) = std::mem::take(local).split_at_mut(len);
    *local = rest;
    part
}

impl HeadTask<'_> {
    fn run(&self, len: usize, local: &mut [f32], out: &mut ColumnBlock<'_>, state: &mut [f32]) {
        if len <= STEPWISE {
            (0..len).for_each(|t| self.step(t, local, out.row(t), state));
        } else {
            for start in (0..len).step_by(CHUNK) {
                let tokens = CHUNK.min(len - start);
                self.chunk(start, tokens, local, out, state);
            }
        }
    }

    /// Fills `q` and `k` with the head's query and key at token `t`: of unit length, the query over `sqrt(key_dim)`.
    fn units(&self, t: usize, q: &mut [f32], k: &mut [f32]) {
        let op = &self.scan.op;
        let (dim, eps) = (op.key_dim, op.norm_eps);
        let column = self.head / (op.value_heads / op.key_heads) * dim;
        let row = &self.qkv[t * self.stride..];
        let factor = 1.0 / (dim as f32).sqrt();
        self.isa.dispatch(Unit { x: &row[column..][..dim], eps, factor, out: q });
        let column = op.key_heads * dim + column;
        self.isa.dispatch(Unit { x: &row[column..][..dim], eps, factor: 1.0, out: k });
    }

    /// The head's values from token `t` on; rows are `stride` apart.
    fn values(&self, t: usize) -> &[f32] {
        let op = &self.scan.op;
        let column = 2 * op.key_heads * op.key_dim + self.head * op.value_dim;
        &self.qkv[t * self.stride + column..]
    }

    /// Fills `g` with the head's log decays at token `t`.
    fn log_decays(&self, t: usize, g: &mut [f32]) {
        let first = self.head * g.len();
        g.copy_from_slice(&self.decay.0[t * self.decay.1 + first..][..g.len()]);
        let bias = &self.scan.dt_bias[first..][..g.len()];
        self.isa.dispatch(LogDecay { x: g, bias, a: self.scan.a[self.head] });
    }

    fn beta_at(&self, t: usize) -> f32 {
        let b = self.beta.0[t * self.beta.1 + self.head];
        self.scan.op.beta_scale / (1.0 + (-b).exp())
    }

    fn step(&self, t: usize, mut local: &mut [f32], out: &mut [f32], state: &mut [f32]) {
        let op = &self.scan.op;
        let keys = op.key_dim;
        let [q, k, decay] = [(); 3].map(|()| part(&mut local, keys));
        self.units(t, q, k);
        let decays = op.decays();
        self.log_decays(t, &mut decay[..decays]);
        decay[..decays].iter_mut().for_each(|g| *g = g.exp());
        if !op.per_channel {
            let all = decay[0];
            decay.fill(all);
        }
        self.isa.dispatch(DeltaStep {
            query: q,
            key: k,
            decay,
            value: &self.values(t)[..op.value_dim],
            beta: self.beta_at(t),
            own: q.iter().zip(&*k).map(|(q, k)| q * k).sum(),
            out,
            state,
        });
    }

    fn chunk(
        &self,
        start: usize,
        tokens: usize,
        mut local: &mut [f32],
        out: &mut ColumnBlock<'_>,
        state: &mut [f32],
    ) {
        let op = &self.scan.op;
        let (isa, keys, values) = (self.isa, op.key_dim, op.value_dim);
        let [scores, system] = [(); 2].map(|()| part(&mut local, CHUNK * CHUNK));
        let [q, k, q_chunk, k_chunk, k_rest] = [(); 5].map(|()| part(&mut local, tokens * keys));
        let [updates, result] = [(); 2].map(|()| part(&mut local, tokens * values));
        let total = part(&mut local, keys);
        let mut betas = [0.0; CHUNK];
        for (t, beta) in betas.iter_mut().enumerate().take(tokens) {
            let row = t * keys..(t + 1) * keys;
            self.units(start + t, &mut q[row.clone()], &mut k[row]);
            *beta = self.beta_at(start + t);
        }
        let products =
            Products { isa, keys, q, k, scores, system, q_chunk, k_chunk, k_rest, total };
        let decays = op.decays();
        let g = part(&mut local, tokens * decays);
        g.chunks_mut(decays).enumerate().for_each(|(t, g)| self.log_decays(start + t, g));
        if op.per_channel {
            products.by_channel(g, local);
        } else {
            products.by_head(g);
        }

        // U, without what the chunk's own updates take from one another.
        let v = self.values(start);
        for t in 0..tokens {
            scale(&v[t * self.stride..][..values], betas[t], &mut updates[t * values..]);
            k_chunk[t * keys..][..keys].iter_mut().for_each(|k| *k *= -betas[t]);
            system[t * CHUNK..][..t].iter_mut().for_each(|l| *l *= -betas[t]);
            // The strips below take whole rows.
            let end = tokens.min((t / STRIP + 1) * STRIP);
            scores[t * CHUNK + t + 1..t * CHUNK + end].fill(0.0);
        }
        let product = |a: &[f32], b: &[f32], c: &mut [f32], accumulate: bool| {
            let (a_row, a_col, b_row, c_row) = (keys, 1, values, values);
            let (m, n, k) = (tokens, values, keys);
            isa.dispatch(Gemm { m, n, k, a, a_row, a_col, b, b_row, c, c_row, accumulate });
        };
        product(k_chunk, state, updates, true);
        for first in (0..tokens).step_by(BLOCK) {
            let rows = BLOCK.min(tokens - first);
            let (solved, rest) = updates.split_at_mut(first * values);
            let u = &mut rest[..rows * values];
            isa.dispatch(Gemm {
                m: rows,
                n: values,
                k: first,
                a: &system[first * CHUNK..],
                a_row: CHUNK,
                a_col: 1,
                b: solved,
                b_row: values,
                c: &mut *u,
                c_row: values,
                accumulate: true,
            });
            let l = &system[first * CHUNK + first..];
            isa.dispatch(SolveBlock { l, stride: CHUNK, u, width: values });
        }

        // Y, by strips of rows, none of which reads beyond its last token.
        product(q_chunk, state, result, false);
        for first in (0..tokens).step_by(STRIP) {
            let last = tokens.min(first + STRIP);
            isa.dispatch(Gemm {
                m: last - first,
                n: values,
                k: last,
                a: &scores[first * CHUNK..],
                a_row: CHUNK,
                a_col: 1,
                b: updates,
                b_row: values,
                c: &mut result[first * values..],
                c_row: values,
                accumulate: true,
            });
        }
        for (t, result) in result.chunks(values).enumerate() {
            out.row(start + t).copy_from_slice(result);
        }

        // S.
        for (row, total) in state.chunks_mut(values).zip(&*total) {
            row.iter_mut().for_each(|s| *s *= total);
        }
        isa.dispatch(Gemm {
            m: keys,
            n: values,
            k: tokens,
            a: k_rest,
            a_row: 1,
            a_col: keys,
            b: updates,
            b_row: values,
            c: state,
            c_row: values,
            accumulate: true,
        });
    }
}

fn scale(x: &[f32], factor: f32, out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = x * factor);
}

/// The products of a chunk's queries and keys with one another, and their decayed copies: all that depends on the form of the
/// decays.
struct Products<'a> {
    isa: Isa,
    keys: usize,
    /// `[tokens, keys]`.
    q: &'a [f32],
    k: &'a [f32],
    /// `P`, and `L` without its factors `-beta`, `[CHUNK, CHUNK]`; only `j <= i` and `j < i` are for use.
    scores: &'a mut [f32],
    system: &'a mut [f32],
    /// `e^s Q`, `e^s K` and `e^(s_last - s) K`, `[tokens, keys]`.
    q_chunk: &'a mut [f32],
    k_chunk: &'a mut [f32],
    k_rest: &'a mut [f32],
    /// `e^(s_last)`, `[keys]`.
    total: &'a mut [f32],
}

impl Products<'_> {
    /// With log decays `g`, `[tokens]`.
    fn by_head(self, g: &[f32]) {
        let (keys, tokens) = (self.keys, g.len());
        let decay = Decay::new(g.iter().map(|g| f64::from(*g)));
        let factors = [1.0; CHUNK];
        let mut raw = [0.0; STRIP * CHUNK];
        for first in (0..tokens).step_by(STRIP) {
            let last = tokens.min(first + STRIP);
            for (x, out) in [(self.q, &mut *self.scores), (self.k, &mut *self.system)] {
                self.isa.dispatch(MatMul {
                    weight: Rows::floats(self.k, keys, keys),
                    first_row: 0,
                    rows: last,
                    x: Vectors { x: &x[first * keys..], stride: keys, tokens: last - first },
                    out: &mut raw,
                    out_stride: CHUNK,
                });
                for i in first..last {
                    let (factors, scores) = (&factors, &raw[(i - first) * CHUNK..]);
                    let row = &mut out[i * CHUNK..][..last];
                    self.isa.dispatch(DecayRow { decay: &decay, factors, scores, i, row });
                }
            }
        }
        for i in 0..tokens {
            let row = i * keys..(i + 1) * keys;
            scale(&self.q[row.clone()], decay.up_to(i), &mut self.q_chunk[row.clone()]);
            scale(&self.k[row.clone()], decay.up_to(i), &mut self.k_chunk[row.clone()]);
            let rest = decay.between(tokens - 1, i);
            scale(&self.k[row.clone()], rest, &mut self.k_rest[row]);
        }
        self.total.fill(decay.up_to(tokens - 1));
    }

    /// With log decays `g`, `[tokens, keys]`; `local` has room for `(2 * BLOCK + 1) * keys` elements.
    fn by_channel(self, g: &[f32], mut local: &mut [f32]) {
        let keys = self.keys;
        let tokens = g.len() / keys;
        let [q_block, k_block] = [(); 2].map(|()| part(&mut local, BLOCK * keys));
        let total = part(&mut local, keys);
        self.total.fill(1.0);
        for first in (0..tokens).step_by(BLOCK) {
            let rows = BLOCK.min(tokens - first);
            let block = first * keys..(first + rows) * keys;
            let (earlier, rest) = self.k_rest.split_at_mut(block.start);
            let diagonal = first * CHUNK + first;
            self.isa.dispatch(ChannelDecays {
                g: &g[block.clone()],
                q: &self.q[block.clone()],
                k: &self.k[block.clone()],
                keys,
                before: &mut *self.total,
                total: &mut *total,
                q_block: &mut *q_block,
                k_block: &mut *k_block,
                q_chunk: &mut self.q_chunk[block.clone()],
                k_chunk: &mut self.k_chunk[block],
                k_rest: rest,
                scores: &mut self.scores[diagonal..],
                system: &mut self.system[diagonal..],
                stride: CHUNK,
            });
            for (x, out) in [(&*q_block, &mut *self.scores), (&*k_block, &mut *self.system)] {
                self.isa.dispatch(MatMul {
                    weight: Rows::floats(earlier, keys, keys),
                    first_row: 0,
                    rows: first,
                    x: Vectors { x, stride: keys, tokens: rows },
                    out: &mut out[first * CHUNK..],
                    out_stride: CHUNK,
                });
            }
            self.isa.dispatch(ScaleRows { x: earlier, by: total });
        }
    }
}
