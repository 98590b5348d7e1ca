//! `mamba2_scan` on the CPU: the convolution by channels, then the scan by heads.
//!
//! A run of few tokens steps through the recurrence. A longer one is computed in chunks of
//! [`CHUNK`] tokens as matrix products (Dao and Gu, 2024, section 6). With `s_i` the sum of `ln a`
//! up to token `i` of the chunk:
//! ```text
//! Y = (C B^T * L) X + diag(e^s) C S,   L[i,j] = e^(s_i - s_j) dt_j  for j <= i, else 0
//! S = e^(s_last) S + (diag(e^(s_last - s) dt) B)^T X
//! ```
//!
//! All exponents are at most 0. The state of a head is `[state, head_dim]`, so that both forms run along `head_dim`.

use super::CpuOp;
use super::conv1d::Conv;
use super::kernel::decay::{CHUNK, Decay, DecayRow};
use super::kernel::dot::{MatMul, Rows, Vectors};
use super::kernel::elementwise::{AddScaled, StepSize};
use super::kernel::gemm::Gemm;
use super::kernel::memory_step::MemoryStep;
use super::simd::Isa;
use super::split::{ColumnBlock, chunks};
use super::step::{Step, by_head};
use crate::Error;
use crate::plan::op;
use crate::weights::Weights;

/// Runs up to this length step through the recurrence.
const STEPWISE: usize = 8;

pub(super) struct Mamba2Scan {
    op: op::Mamba2Scan,
    conv: Conv,
    /// `-exp(a_log)`.
    a: Vec<f32>,
    d: Vec<f32>,
    dt_bias: Vec<f32>,
}

impl Mamba2Scan {
    pub(super) fn new(op: &op::Mamba2Scan, weights: &Weights) -> Result<Self, Error> {
        Ok(Self {
            conv: Conv::new(std::slice::from_ref(&op.conv), weights)?,
            a: weights.vector(&op.a_log)?.into_iter().map(|a| -a.exp()).collect(),
            d: weights.vector(&op.d)?,
            dt_bias: weights.vector(&op.dt_bias)?,
            op: op.clone(),
        })
    }
}

impl CpuOp for Mamba2Scan {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (isa, tokens) = (step.isa, step.tokens.len());
        let (inner, channels, n) = (op.inner(), op.conv.channels, op.state_dim);
        let mut output = step.buffers.take(op.output);
        let mut xbc = step.scratch.take(tokens * channels)?;
        let xbc_used = &mut xbc[..tokens * channels];
        let (input, stride) = (step.buffers.get(op.input), op.input_width());
        let conv_input = (&input[inner..], stride);
        self.conv.run(step.team, isa, step.runs, op.conv_state, conv_input, xbc_used);
        let xbc_used = &*xbc_used;

        // C B^T of every chunk and group: a group's heads share it.
        let spans: Vec<_> = step.runs.iter().map(|run| (run.start, run.len)).collect();
        let long = |len: usize| if len > STEPWISE { len.div_ceil(CHUNK) } else { 0 };
        let mut first_chunk = vec![0];
        for (_, len) in &spans {
            first_chunk.push(first_chunk[first_chunk.len() - 1] + long(*len));
        }
        let all_chunks = first_chunk[spans.len()];
        let square = CHUNK * CHUNK;
        let mut scores = step.scratch.take(all_chunks * op.groups * square)?;
        if all_chunks > 0 {
            let split = chunks(&mut scores, square);
            step.team.for_each(all_chunks * op.groups, split, |task, out| {
                let (chunk, group) = (task / op.groups, task % op.groups);
                let run = first_chunk.partition_point(|&first| first <= chunk) - 1;
                let (start, len) = spans[run];
                let offset = (chunk - first_chunk[run]) * CHUNK;
                let tokens = CHUNK.min(len - offset);
                let row = &xbc_used[(start + offset) * channels + inner + group * n..];
                let c = &row[op.groups * n..];
                isa.dispatch(MatMul {
                    weight: Rows::floats(row, n, channels),
                    first_row: 0,
                    rows: tokens,
                    x: Vectors { x: c, stride: channels, tokens },
                    out,
                    out_stride: CHUNK,
                });
            });
        }

        let split =
            by_head(step.runs, output.data(), op.state, op.heads, op.head_dim, n * op.head_dim);
        let locals = step.locals.get(self.local_len(tokens))?;
        let count = spans.len() * op.heads;
        step.team.for_each_with(locals, count, split, |local, task, (mut out, state)| {
            let (run, head) = (task / op.heads, task % op.heads);
            let (start, len) = spans[run];
            let group = head / (op.heads / op.groups);
            let xbc = &xbc_used[start * channels..];
            let scores = &scores[first_chunk[run] * op.groups * square..];
            let task = HeadTask { scan: self, isa, head, group, len, xbc, scores };
            let dt = &input[start * stride + inner + channels + head..];
            task.run(dt, stride, local, &mut out, state);
        });
        step.buffers.put(output);
        step.scratch.give(scores);
        step.scratch.give(xbc);
        Ok(())
    }
}

impl Mamba2Scan {
    /// Scratch elements per thread: dt of all tokens, then a chunk's decayed scores, scaled B or C,
    /// and output.
    fn local_len(&self, tokens: usize) -> usize {
        tokens + CHUNK * (CHUNK + self.op.state_dim + self.op.head_dim)
    }
}

/// One head of one run.
struct HeadTask<'a> {
    scan: &'a Mamba2Scan,
    isa: Isa,
    head: usize,
    group: usize,
    len: usize,
    /// The run's rows of x, B, C.
    xbc: &'a [f32],
    /// The run's chunks of `C B^T`, `[chunks, groups, CHUNK, CHUNK]`.
    scores: &'a [f32],
}

impl HeadTask<'_> {
    fn run(
        &self,
        dt_raw: &[f32],
        dt_stride: usize,
        local: &mut [f32],
        out: &mut ColumnBlock<'_>,
        state: &mut [f32],
    ) {
        let (dt, local) = local.split_at_mut(self.len);
        for (t, dt) in dt.iter_mut().enumerate() {
            *dt = dt_raw[t * dt_stride];
        }
        let bias = self.scan.dt_bias[self.head];
        self.isa.dispatch(StepSize { x: dt, bias, limit: self.scan.op.dt_limit });
        if self.len <= STEPWISE {
            for t in 0..self.len {
                self.step(t, dt[t], out.row(t), state);
            }
        } else {
            for start in (0..self.len).step_by(CHUNK) {
                let dt = &dt[start..self.len.min(start + CHUNK)];
                self.chunk(start, dt, local, out, state);
            }
        }
    }

    /// The rows of x, B and C of a token, each to the end of the row.
    fn token(&self, t: usize) -> (&[f32], &[f32], &[f32]) {
        let op = &self.scan.op;
        let row = &self.xbc[t * op.conv.channels..];
        let b = op.inner() + self.group * op.state_dim;
        (&row[self.head * op.head_dim..], &row[b..], &row[b + op.groups * op.state_dim..])
    }

    fn step(&self, t: usize, dt: f32, out: &mut [f32], state: &mut [f32]) {
        let op = &self.scan.op;
        let (x, b, c) = self.token(t);
        let (b, c) = (&b[..op.state_dim], &c[..op.state_dim]);
        let own: f32 = b.iter().zip(c).map(|(b, c)| b * c).sum();
        self.isa.dispatch(MemoryStep {
            query: c,
            key: b,
            value: &x[..op.head_dim],
            decay: (dt * self.scan.a[self.head]).exp(),
            input: dt,
            own: dt * own + self.scan.d[self.head],
            out,
            state,
        });
    }

    fn chunk(
        &self,
        start: usize,
        dt: &[f32],
        local: &mut [f32],
        out: &mut ColumnBlock<'_>,
        state: &mut [f32],
    ) {
        let op = &self.scan.op;
        let (isa, q, n, p) = (self.isa, dt.len(), op.state_dim, op.head_dim);
        let channels = op.conv.channels;
        let (weights, local) = local.split_at_mut(CHUNK * CHUNK);
        let (scaled, result) = local.split_at_mut(CHUNK * n);
        let (x, b, c) = self.token(start);
        let a = f64::from(self.scan.a[self.head]);
        let decay = Decay::new(dt.iter().map(|dt| f64::from(*dt) * a));

        // Y = (C B^T * L) X, in strips of rows, each up to its last token.
        let index = start / CHUNK * op.groups + self.group;
        let scores = &self.scores[index * CHUNK * CHUNK..][..CHUNK * CHUNK];
        for first in (0..q).step_by(16) {
            let last = q.min(first + 16);
            for i in first..last {
                let row = &mut weights[i * CHUNK..][..last];
                let scores = &scores[i * CHUNK..];
                isa.dispatch(DecayRow { decay: &decay, factors: dt, scores, i, row });
            }
            isa.dispatch(Gemm {
                m: last - first,
                n: p,
                k: last,
                a: &weights[first * CHUNK..],
                a_row: CHUNK,
                a_col: 1,
                b: x,
                b_row: channels,
                c: &mut result[first * p..],
                c_row: p,
                accumulate: false,
            });
        }
        // Y += diag(e^s) C S.
        for i in 0..q {
            let factor = decay.up_to(i);
            scale(&c[i * channels..][..n], factor, &mut scaled[i * n..][..n]);
        }
        let (a, b_state) = (&*scaled, &*state);
        isa.dispatch(Gemm {
            m: q,
            n: p,
            k: n,
            a,
            a_row: n,
            a_col: 1,
            b: b_state,
            b_row: p,
            c: &mut *result,
            c_row: p,
            accumulate: true,
        });
        for i in 0..q {
            let out = out.row(start + i);
            out.copy_from_slice(&result[i * p..][..p]);
            let x = &x[i * channels..][..p];
            isa.dispatch(AddScaled { scale: self.scan.d[self.head], x, out });
        }
        // S = e^(s_last) S + (diag(e^(s_last - s) dt) B)^T X.
        for i in 0..q {
            let factor = decay.between(q - 1, i) * dt[i];
            scale(&b[i * channels..][..n], factor, &mut scaled[i * n..][..n]);
        }
        let factor = decay.up_to(q - 1);
        state.iter_mut().for_each(|s| *s *= factor);
        isa.dispatch(Gemm {
            m: n,
            n: p,
            k: q,
            a: scaled,
            a_row: 1,
            a_col: n,
            b: x,
            b_row: channels,
            c: state,
            c_row: p,
            accumulate: true,
        });
    }
}

fn scale(x: &[f32], factor: f32, out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = x * factor);
}
