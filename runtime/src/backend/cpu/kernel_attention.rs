//! `kernel_attention` on the CPU: one task for each key/value head, with all query heads that share it.
//!
//! A run of a few tokens steps through the sums. A longer one goes in chunks of [`CHUNK`] tokens as matrix products: with the feature map
//! applied to queries and keys,
//!
//! ```text
//! Y = (tril(Q K^T) V + Q S) / (tril(Q K^T) 1 + Q z + eps)
//! S = S + K^T V,   z = z + K^T 1
//! ```
//!
//! A chunk's own sums are short, so what it adds is computed in f32 and added with compensation.

use super::CpuOp;
use super::kernel::compensated::{AddTo, EluPlusOne, Rounded, SumStep};
use super::kernel::dot::{MatMul, Rows, Vectors};
use super::kernel::gemm::Gemm;
use super::simd::Isa;
use super::split::ColumnBlock;
use super::step::{Step, by_head};
use crate::Error;
use crate::plan::op;

/// Tokens of a chunk.
const CHUNK: usize = 64;

/// Runs up to this length step through the sums.
const STEPWISE: usize = 8;

pub(super) struct KernelAttention {
    op: op::KernelAttention,
}

impl KernelAttention {
    pub(super) fn new(op: &op::KernelAttention) -> Self {
        Self { op: op.clone() }
    }

    /// Scratch of a thread: a chunk's queries of a head, its keys, weights and outputs; then `S` and `z`, rounded, or what a chunk adds.
    fn local_len(&self) -> usize {
        let (keys, values) = (self.op.head_dim, self.op.value_dim());
        let queries = keys * self.op.group().max(CHUNK);
        queries + CHUNK * (keys + CHUNK + values) + self.op.sums()
    }
}

impl CpuOp for KernelAttention {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (isa, kv_heads) = (step.isa, op.kv_heads);
        let mut output = step.buffers.take(op.output);
        let buffers = &*step.buffers;
        let [queries, keys, values] =
            [op.queries, op.keys, op.values].map(|slice| buffers.slice(slice));
        let spans: Vec<_> = step.runs.iter().map(|run| (run.start, run.len)).collect();
        let width = op.group() * op.value_dim();
        let split = by_head(step.runs, output.data(), op.state, kv_heads, width, op.head_state());
        let locals = step.locals.get(self.local_len())?;
        let count = spans.len() * kv_heads;
        step.team.for_each_with(locals, count, split, |local, task, (mut out, state)| {
            let (start, len) = spans[task / kv_heads];
            let kv = task % kv_heads;
            let task = HeadTask { op, isa, kv, start, len, queries, keys, values };
            task.run(local, &mut out, state);
        });
        step.buffers.put(output);
        Ok(())
    }
}

/// One key/value head of one run.
struct HeadTask<'a> {
    op: &'a op::KernelAttention,
    isa: Isa,
    kv: usize,
    /// Rows of the run in the step.
    start: usize,
    len: usize,
    /// Each from its first column on, with the distance between tokens.
    queries: (&'a [f32], usize),
    keys: (&'a [f32], usize),
    values: (&'a [f32], usize),
}

/// `S` and `z`, each with what it rounded off.
struct Sums<'a> {
    s: &'a mut [f32],
    s_low: &'a mut [f32],
    z: &'a mut [f32],
    z_low: &'a mut [f32],
}

impl HeadTask<'_> {
    fn run(&self, local: &mut [f32], out: &mut ColumnBlock<'_>, state: &mut [f32]) {
        let (dk, dv) = (self.op.head_dim, self.op.value_dim());
        let (s, rest) = state.split_at_mut(dk * dv);
        let (s_low, rest) = rest.split_at_mut(dk * dv);
        let (z, z_low) = rest.split_at_mut(dk);
        let mut sums = Sums { s, s_low, z, z_low };
        if self.len <= STEPWISE {
            (0..self.len).for_each(|t| self.step(t, local, out.row(t), &mut sums));
        } else {
            for start in (0..self.len).step_by(CHUNK) {
                let tokens = CHUNK.min(self.len - start);
                self.chunk(start, tokens, local, out, &mut sums);
            }
        }
    }

    /// `phi` of head `head`'s columns of `all` at token `t` of the run.
    fn mapped(&self, (all, stride): (&[f32], usize), t: usize, head: usize, out: &mut [f32]) {
        let dk = self.op.head_dim;
        let x = &all[(self.start + t) * stride + head * dk..][..dk];
        self.isa.dispatch(EluPlusOne { x, out });
    }

    /// The value at token `t` of the run, and what follows it.
    fn value(&self, t: usize) -> &[f32] {
        let (values, stride) = self.values;
        &values[(self.start + t) * stride + self.kv * self.op.value_dim()..]
    }

    fn step(&self, t: usize, local: &mut [f32], out: &mut [f32], sums: &mut Sums<'_>) {
        let (dk, dv, group) = (self.op.head_dim, self.op.value_dim(), self.op.group());
        let (queries, local) = local.split_at_mut(group * dk);
        let (key, local) = local.split_at_mut(dk);
        let weights = &mut local[..dk];
        for (i, query) in queries.chunks_mut(dk).enumerate() {
            self.mapped(self.queries, t, self.kv * group + i, query);
        }
        self.mapped(self.keys, t, self.kv, key);
        self.isa.dispatch(AddTo { x: key, high: sums.z, low: sums.z_low });
        self.isa.dispatch(Rounded { high: sums.z, low: sums.z_low, out: weights });
        self.isa.dispatch(SumStep {
            queries,
            key,
            value: &self.value(t)[..dv],
            out: &mut *out,
            high: sums.s,
            low: sums.s_low,
        });
        for (query, out) in queries.chunks(dk).zip(out.chunks_mut(dv)) {
            let weight: f32 = query.iter().zip(&*weights).map(|(q, z)| q * z).sum();
            let divisor = weight + self.op.eps;
            out.iter_mut().for_each(|out| *out /= divisor);
        }
    }

    fn chunk(
        &self,
        start: usize,
        tokens: usize,
        local: &mut [f32],
        out: &mut ColumnBlock<'_>,
        sums: &mut Sums<'_>,
    ) {
        let (dk, dv, group) = (self.op.head_dim, self.op.value_dim(), self.op.group());
        let (isa, stride) = (self.isa, self.values.1);
        let v = self.value(start);
        let (queries, local) = local.split_at_mut(CHUNK * dk);
        let (keys, local) = local.split_at_mut(CHUNK * dk);
        let (weights, local) = local.split_at_mut(CHUNK * CHUNK);
        let (result, local) = local.split_at_mut(CHUNK * dv);
        let (s, local) = local.split_at_mut(dk * dv);
        let z = &mut local[..dk];
        isa.dispatch(Rounded { high: sums.s, low: sums.s_low, out: &mut *s });
        isa.dispatch(Rounded { high: sums.z, low: sums.z_low, out: &mut *z });
        for (t, key) in keys.chunks_mut(dk).take(tokens).enumerate() {
            self.mapped(self.keys, start + t, self.kv, key);
        }
        for head in 0..group {
            for (t, query) in queries.chunks_mut(dk).take(tokens).enumerate() {
                self.mapped(self.queries, start + t, self.kv * group + head, query);
            }
            isa.dispatch(MatMul {
                weight: Rows::floats(keys, dk, dk),
                first_row: 0,
                rows: tokens,
                x: Vectors { x: queries, stride: dk, tokens },
                out: &mut *weights,
                out_stride: CHUNK,
            });
            let mut divisors = [0.0f32; CHUNK];
            for (i, row) in weights.chunks_mut(CHUNK).take(tokens).enumerate() {
                row[i + 1..].fill(0.0);
                let own: f32 = row[..=i].iter().sum();
                let query = &queries[i * dk..][..dk];
                let held: f32 = query.iter().zip(&*z).map(|(q, z)| q * z).sum();
                divisors[i] = held + own + self.op.eps;
            }
            // By strips of rows, none of which reads beyond its last token.
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
                    b_row: stride,
                    c: &mut result[first * dv..],
                    c_row: dv,
                    accumulate: false,
                });
            }
            isa.dispatch(Gemm {
                m: tokens,
                n: dv,
                k: dk,
                a: queries,
                a_row: dk,
                a_col: 1,
                b: s,
                b_row: dv,
                c: &mut *result,
                c_row: dv,
                accumulate: true,
            });
            for (t, divisor) in divisors.iter().enumerate().take(tokens) {
                let out = &mut out.row(start + t)[head * dv..][..dv];
                out.iter_mut().zip(&result[t * dv..]).for_each(|(o, r)| *o = r / divisor);
            }
        }
        // What the chunk adds.
        isa.dispatch(Gemm {
            m: dk,
            n: dv,
            k: tokens,
            a: keys,
            a_row: 1,
            a_col: dk,
            b: v,
            b_row: stride,
            c: &mut *s,
            c_row: dv,
            accumulate: false,
        });
        z.fill(0.0);
        for key in keys.chunks(dk).take(tokens) {
            z.iter_mut().zip(key).for_each(|(z, k)| *z += k);
        }
        isa.dispatch(AddTo { x: s, high: sums.s, low: sums.s_low });
        isa.dispatch(AddTo { x: z, high: sums.z, low: sums.z_low });
    }
}
