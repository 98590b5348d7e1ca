//! `linear_attention` on the CPU: one task a head.
//!
//! A run of a few tokens steps through the recurrence. A longer one goes in chunks of [`CHUNK`] tokens as matrix products: for token
//! `i` of a chunk of `n` tokens, counted from 0, and the head's decay `a`,
//!
//! ```text
//! Y = (Q K^T * L) V + diag(a^(i+1)) Q S,   L[i,j] = a^(i-j)  for j <= i, else 0
//! S = a^n S + (diag(a^(n-1-i)) K)^T V
//! ```
//!
//! with queries scaled: the recurrence of the op, unrolled.

use super::CpuOp;
use super::kernel::dot::{MatMul, Rows, Vectors};
use super::kernel::elementwise::Activate;
use super::kernel::gemm::Gemm;
use super::kernel::memory_step::MemoryStep;
use super::simd::Isa;
use super::split::ColumnBlock;
use super::step::{Step, by_head};
use crate::Error;
use crate::plan::op::{self, HeadColumns};

/// Tokens of a chunk.
const CHUNK: usize = 64;

/// Runs up to this length step through the recurrence.
const STEPWISE: usize = 8;

pub(super) struct LinearAttention {
    op: op::LinearAttention,
    /// `a^0 ..= a^CHUNK` of each head.
    powers: Vec<[f32; CHUNK + 1]>,
}

impl LinearAttention {
    pub(super) fn new(op: &op::LinearAttention) -> Self {
        let powers = |log: &f32| {
            std::array::from_fn(|tokens| (f64::from(*log) * tokens as f64).exp() as f32)
        };
        Self { powers: op.log_decays.iter().map(powers).collect(), op: op.clone() }
    }

    /// Scratch of a thread: a chunk's queries, keys and values, its weights, scaled queries or keys, and output.
    fn local_len(&self) -> usize {
        CHUNK * (3 * self.op.key_dim + 2 * self.op.value_dim + CHUNK)
    }
}

impl CpuOp for LinearAttention {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (isa, heads) = (step.isa, op.heads());
        let mut output = step.buffers.take(op.output);
        let input = step.buffers.get(op.input);
        let stride = step.buffers.width(op.input);
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
            let head = task % heads;
            let input = &input[start * stride..];
            let task = HeadTask { layer: self, isa, head, len, input, stride };
            task.run(local, &mut out, state);
        });
        step.buffers.put(output);
        Ok(())
    }
}

/// One head of one run.
struct HeadTask<'a> {
    layer: &'a LinearAttention,
    isa: Isa,
    head: usize,
    len: usize,
    /// The run's rows of the input.
    input: &'a [f32],
    stride: usize,
}

/// The queries, keys and values of a chunk, `[tokens, width]` each, after the activation.
struct Tokens<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl HeadTask<'_> {
    fn run(&self, local: &mut [f32], out: &mut ColumnBlock<'_>, state: &mut [f32]) {
        let op = &self.layer.op;
        let (made, local) = local.split_at_mut(CHUNK * (2 * op.key_dim + op.value_dim));
        for start in (0..self.len).step_by(CHUNK) {
            let tokens = CHUNK.min(self.len - start);
            let (q, rest) = made.split_at_mut(CHUNK * op.key_dim);
            let (k, v) = rest.split_at_mut(CHUNK * op.key_dim);
            self.activated(start, op.queries, op.key_dim, &mut q[..tokens * op.key_dim]);
            self.activated(start, op.keys, op.key_dim, &mut k[..tokens * op.key_dim]);
            self.activated(start, op.values, op.value_dim, &mut v[..tokens * op.value_dim]);
            q[..tokens * op.key_dim].iter_mut().for_each(|q| *q *= op.scale);
            let chunk = Tokens { q, k, v };
            if self.len <= STEPWISE {
                (0..tokens).for_each(|t| self.step(t, &chunk, out.row(start + t), state));
            } else {
                self.chunk(start, tokens, &chunk, local, out, state);
            }
        }
    }

    /// Fills `out`, `[tokens, width]`, from token `start` on.
    fn activated(&self, start: usize, columns: HeadColumns, width: usize, out: &mut [f32]) {
        let first = columns.of(self.head);
        for (t, out) in out.chunks_mut(width.max(1)).enumerate() {
            let x = &self.input[(start + t) * self.stride + first..][..width];
            match self.layer.op.activation {
                Some(activation) => self.isa.dispatch(Activate { activation, x, out }),
                None => out.copy_from_slice(x),
            }
        }
    }

    fn step(&self, t: usize, chunk: &Tokens<'_>, out: &mut [f32], state: &mut [f32]) {
        let op = &self.layer.op;
        let (dk, dv) = (op.key_dim, op.value_dim);
        let (query, key) = (&chunk.q[t * dk..][..dk], &chunk.k[t * dk..][..dk]);
        let own = query.iter().zip(key).map(|(q, k)| q * k).sum();
        self.isa.dispatch(MemoryStep {
            query,
            key,
            value: &chunk.v[t * dv..][..dv],
            decay: self.layer.powers[self.head][1],
            input: 1.0,
            own,
            out,
            state,
        });
    }

    fn chunk(
        &self,
        start: usize,
        tokens: usize,
        chunk: &Tokens<'_>,
        local: &mut [f32],
        out: &mut ColumnBlock<'_>,
        state: &mut [f32],
    ) {
        let op = &self.layer.op;
        let (isa, dk, dv) = (self.isa, op.key_dim, op.value_dim);
        let Tokens { q, k, v } = *chunk;
        let powers = &self.layer.powers[self.head];
        let (weights, local) = local.split_at_mut(CHUNK * CHUNK);
        let (scaled, result) = local.split_at_mut(CHUNK * dk);

        // Y = (Q K^T * L) V, by strips of rows, none of which reads beyond its last token.
        isa.dispatch(MatMul {
            weight: Rows::floats(k, dk, dk),
            first_row: 0,
            rows: tokens,
            x: Vectors { x: q, stride: dk, tokens },
            out: &mut *weights,
            out_stride: CHUNK,
        });
        for i in 0..tokens {
            let row = &mut weights[i * CHUNK..][..CHUNK];
            let decays = powers[..=i].iter().rev();
            row[..=i].iter_mut().zip(decays).for_each(|(w, decay)| *w *= decay);
            row[i + 1..].fill(0.0);
        }
        for first in (0..tokens).step_by(16) {
            let last = tokens.min(first + 16);
            isa.dispatch(Gemm {
                m: last - first,
                n: dv,
                k: last,
                a: &weights[first * CHUNK..],
                a_row: CHUNK,
                a_col: 1,
                b: v,
                b_row: dv,
                c: &mut result[first * dv..],
                c_row: dv,
                accumulate: false,
            });
        }
        // Y += diag(a^(i+1)) Q S.
        for i in 0..tokens {
            scale(&q[i * dk..][..dk], powers[i + 1], &mut scaled[i * dk..][..dk]);
        }
        let (a, held) = (&*scaled, &*state);
        isa.dispatch(Gemm {
            m: tokens,
            n: dv,
            k: dk,
            a,
            a_row: dk,
            a_col: 1,
            b: held,
            b_row: dv,
            c: &mut *result,
            c_row: dv,
            accumulate: true,
        });
        for i in 0..tokens {
            out.row(start + i).copy_from_slice(&result[i * dv..][..dv]);
        }
        // S = a^n S + (diag(a^(n-1-i)) K)^T V.
        for i in 0..tokens {
            scale(&k[i * dk..][..dk], powers[tokens - 1 - i], &mut scaled[i * dk..][..dk]);
        }
        state.iter_mut().for_each(|s| *s *= powers[tokens]);
        isa.dispatch(Gemm {
            m: dk,
            n: dv,
            k: tokens,
            a: scaled,
            a_row: 1,
            a_col: dk,
            b: v,
            b_row: dv,
            c: state,
            c_row: dv,
            accumulate: true,
        });
    }
}

fn scale(x: &[f32], factor: f32, out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = x * factor);
}
