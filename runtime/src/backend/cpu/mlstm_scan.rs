//! `mlstm_scan` on the CPU: one task per head.
//!
//! A run of few tokens steps through the recurrence. A longer one is computed in chunks of
//! [`CHUNK`] tokens as matrix products. With `F_i` the sum of log forget gates up to token `i` of
//! the chunk, `m` the stabilizer before the chunk, and `m_i = max(logf_i + m_(i-1), i_i)` that of
//! the recurrence:
//!
//! ```text
//! W[i,j] = e^(F_i - F_j + i_j - m_i) q_i . k_j   for j <= i, else 0
//! H = W V + diag(e^(F_i + m - m_i)) Q C,    den = W 1 + diag(e^(F_i + m - m_i)) Q n
//! C = e^(F_last + m - m_last) C + (diag(e^(F_last - F_i + i_i - m_last)) K)^T V,   n likewise
//! ```
//!
//! Queries are scaled by `1 / sqrt(dk)`. This is the op's recurrence, unrolled. All exponents are
//! at most 0.

use kinglet_models::ForgetGate;

use super::CpuOp;
use super::kernel::dot::{MatMul, Rows, Vectors};
use super::kernel::elementwise::AddScaled;
use super::kernel::gemm::Gemm;
use super::kernel::memory_step::MemoryStep;
use super::simd::Isa;
use super::split::ColumnBlock;
use super::step::{Step, by_head};
use crate::Error;
use crate::plan::op;
use crate::weights::Weights;

/// Tokens per chunk.
const CHUNK: usize = 64;

/// Runs up to this length step through the recurrence.
const STEPWISE: usize = 8;

pub(super) struct MLstmScan {
    op: op::MLstmScan,
    /// Of the heads' norms; empty without one.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl MLstmScan {
    pub(super) fn new(op: &op::MLstmScan, weights: &Weights) -> Result<Self, Error> {
        let (weight, bias) = match &op.head_norm {
            Some(norm) => (weights.norm_weight(norm)?, weights.norm_bias(norm)?),
            None => (Vec::new(), None),
        };
        Ok(Self { weight, bias: bias.unwrap_or_default(), op: op.clone() })
    }

    /// Scratch elements per thread: a chunk's weights, scaled queries or keys, and output.
    fn local_len(&self) -> usize {
        CHUNK * (CHUNK + self.op.qk_head_dim + self.op.v_head_dim)
    }
}

impl CpuOp for MLstmScan {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let op = &self.op;
        let (isa, heads) = (step.isa, op.heads);
        let mut output = step.buffers.take(op.output);
        let input = step.buffers.get(op.input);
        let stride = step.buffers.width(op.input);
        let stream = op.stream_gate.map(|gate| step.buffers.slice(gate));
        let spans: Vec<_> = step.runs.iter().map(|run| (run.start, run.len)).collect();
        let split =
            by_head(step.runs, output.data(), op.state, heads, op.v_head_dim, op.head_state());
        let locals = step.locals.get(self.local_len())?;
        let count = spans.len() * heads;
        step.team.for_each_with(locals, count, split, |local, task, (mut out, state)| {
            let (start, len) = spans[task / heads];
            let head = task % heads;
            let input = &input[start * stride..];
            let stream = stream.map(|(gates, stride)| (&gates[start * stride..], stride));
            let task = HeadTask { scan: self, isa, head, len, input, stride, stream };
            task.run(local, &mut out, state);
        });
        step.buffers.put(output);
        Ok(())
    }
}

/// One head of one run.
struct HeadTask<'a> {
    scan: &'a MLstmScan,
    isa: Isa,
    head: usize,
    len: usize,
    /// The run's rows of q, k, v, o, i, f.
    input: &'a [f32],
    stride: usize,
    /// The run's rows of `b`, and the distance between them.
    stream: Option<(&'a [f32], usize)>,
}

/// `C` `[dk, dv]`, `n` `[dk]` and `m` of a head.
struct State<'a> {
    c: &'a mut [f32],
    n: &'a mut [f32],
    m: &'a mut f32,
}

impl HeadTask<'_> {
    fn run(&self, local: &mut [f32], out: &mut ColumnBlock<'_>, state: &mut [f32]) {
        let (dk, dv) = (self.scan.op.qk_head_dim, self.scan.op.v_head_dim);
        let (c, rest) = state.split_at_mut(dk * dv);
        let (n, m) = rest.split_at_mut(dk);
        let [m] = m else { return };
        let mut state = State { c, n, m };
        if self.len <= STEPWISE {
            for t in 0..self.len {
                self.step(t, out.row(t), &mut state);
                self.finish(t, out.row(t));
            }
        } else {
            for start in (0..self.len).step_by(CHUNK) {
                let tokens = CHUNK.min(self.len - start);
                self.chunk(start, tokens, local, out, &mut state);
                (start..start + tokens).for_each(|t| self.finish(t, out.row(t)));
            }
        }
    }

    /// This head's part of the projection `which` (0 to 5: q, k, v, o, i, f) at token `t`, and what
    /// follows it in the row.
    fn part(&self, which: usize, t: usize) -> &[f32] {
        let op = &self.scan.op;
        let widths = [op.qk_head_dim, op.qk_head_dim, op.v_head_dim, op.v_head_dim, 1, 1];
        let before: usize = widths[..which].iter().map(|width| width * op.heads).sum();
        &self.input[t * self.stride + before + self.head * widths[which]..]
    }

    /// Input gate and log forget gate at token `t`.
    fn gates(&self, t: usize) -> (f32, f32) {
        let cap = |x: f32| match self.scan.op.gate_soft_cap {
            Some(cap) => cap * (x / cap).tanh(),
            None => x,
        };
        let (i, f) = (cap(self.part(4, t)[0]), cap(self.part(5, t)[0]));
        match self.scan.op.forget_gate {
            // ln sigmoid(f), without overflow for very negative f.
            ForgetGate::Sigmoid => (i, f.min(0.0) - (-f.abs()).exp().ln_1p()),
            ForgetGate::Exponential => (i, f),
        }
    }

    fn step(&self, t: usize, out: &mut [f32], state: &mut State<'_>) {
        let op = &self.scan.op;
        let (dk, dv) = (op.qk_head_dim, op.v_head_dim);
        let (i, f) = self.gates(t);
        let m = (f + *state.m).max(i);
        let (forget, input) = ((f + *state.m - m).exp(), (i - m).exp());
        *state.m = m;
        let (q, k, v) = (&self.part(0, t)[..dk], &self.part(1, t)[..dk], &self.part(2, t)[..dv]);
        let scale = 1.0 / (dk as f32).sqrt();
        // The token's own contribution has the same factor `q . k` in numerator and denominator. If
        // it cancels to a small value, its rounding is common to the whole head, and the head's
        // norm removes it.
        let (mut held, mut own) = (0.0, 0.0);
        for ((n, k), q) in state.n.iter_mut().zip(k).zip(q) {
            held += *n * q;
            own += k * q;
            *n = forget * *n + input * k;
        }
        let own = input * own;
        let divisor = ((forget * held + own) * scale).abs().max((-m).exp()) + op.eps;
        self.isa.dispatch(MemoryStep {
            query: q,
            key: k,
            value: v,
            decay: forget,
            input,
            own,
            out: &mut *out,
            state: state.c,
        });
        out.iter_mut().for_each(|o| *o = *o * scale / divisor);
    }

    fn chunk(
        &self,
        start: usize,
        tokens: usize,
        local: &mut [f32],
        out: &mut ColumnBlock<'_>,
        state: &mut State<'_>,
    ) {
        let op = &self.scan.op;
        let (isa, dk, dv, stride) = (self.isa, op.qk_head_dim, op.v_head_dim, self.stride);
        let scale = 1.0 / (dk as f32).sqrt();
        let (weights, local) = local.split_at_mut(CHUNK * CHUNK);
        let (scaled, result) = local.split_at_mut(CHUNK * dk);
        let (q, k, v) = (self.part(0, start), self.part(1, start), self.part(2, start));

        // Gates, their sums (in f64, for differences of long sums), and the recurrence's
        // stabilizers.
        let before = f64::from(*state.m);
        let (mut inputs, mut sums, mut m) = ([0.0f64; CHUNK], [0.0f64; CHUNK], [0.0f64; CHUNK]);
        let (mut sum, mut stabilizer) = (0.0, *state.m);
        for t in 0..tokens {
            let (i, f) = self.gates(start + t);
            sum += f64::from(f);
            stabilizer = (f + stabilizer).max(i);
            (inputs[t], sums[t], m[t]) = (f64::from(i), sum, f64::from(stabilizer));
        }

        // Scores q_i . k_j, replaced by their weights. The sum of a row's weights is its part of
        // the denominator.
        isa.dispatch(MatMul {
            weight: Rows::floats(k, dk, stride),
            first_row: 0,
            rows: tokens,
            x: Vectors { x: q, stride, tokens },
            out: &mut *weights,
            out_stride: CHUNK,
        });
        let mut divisors = [0.0f32; CHUNK];
        for i in 0..tokens {
            let row = &mut weights[i * CHUNK..][..CHUNK];
            for j in 0..=i {
                let exponent = (sums[i] - sums[j]) + (inputs[j] - m[i]);
                row[j] *= (exponent as f32).exp() * scale;
            }
            row[i + 1..].fill(0.0);
            divisors[i] = row[..=i].iter().sum();
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
                b_row: stride,
                c: &mut result[first * dv..],
                c_row: dv,
                accumulate: false,
            });
        }
        // Adds the contribution of the state before the chunk.
        for i in 0..tokens {
            let factor = ((sums[i] + before - m[i]) as f32).exp() * scale;
            let (query, scaled) = (&q[i * stride..][..dk], &mut scaled[i * dk..][..dk]);
            let mut dot = 0.0;
            for ((s, q), n) in scaled.iter_mut().zip(query).zip(state.n.iter()) {
                *s = q * factor;
                dot += *s * n;
            }
            divisors[i] += dot;
        }
        isa.dispatch(Gemm {
            m: tokens,
            n: dv,
            k: dk,
            a: scaled,
            a_row: dk,
            a_col: 1,
            b: state.c,
            b_row: dv,
            c: &mut *result,
            c_row: dv,
            accumulate: true,
        });
        for i in 0..tokens {
            let divisor = divisors[i].abs().max((-m[i] as f32).exp()) + op.eps;
            let out = out.row(start + i);
            out.iter_mut().zip(&result[i * dv..]).for_each(|(o, r)| *o = r / divisor);
        }
        // The state after the chunk.
        let last = tokens - 1;
        let factor = ((sums[last] + before - m[last]) as f32).exp();
        state.c.iter_mut().chain(state.n.iter_mut()).for_each(|x| *x *= factor);
        for i in 0..tokens {
            let factor = ((sums[last] - sums[i] + inputs[i] - m[last]) as f32).exp();
            let (key, scaled) = (&k[i * stride..][..dk], &mut scaled[i * dk..][..dk]);
            scaled.iter_mut().zip(key).for_each(|(s, k)| *s = k * factor);
            isa.dispatch(AddScaled { scale: 1.0, x: scaled, out: &mut *state.n });
        }
        isa.dispatch(Gemm {
            m: dk,
            n: dv,
            k: tokens,
            a: scaled,
            a_row: 1,
            a_col: dk,
            b: v,
            b_row: stride,
            c: state.c,
            c_row: dv,
            accumulate: true,
        });
        *state.m = m[last] as f32;
    }

    /// Norm of the head, weight and bias, output gate, the gate beside the cell.
    fn finish(&self, t: usize, h: &mut [f32]) {
        let dv = self.scan.op.v_head_dim;
        let first = self.head * dv;
        if let Some(norm) = &self.scan.op.head_norm {
            let mean = match self.scan.op.centred {
                true => h.iter().map(|&x| f64::from(x)).sum::<f64>() / dv as f64,
                false => 0.0,
            };
            let squares = h.iter().map(|&x| (f64::from(x) - mean).powi(2));
            let variance = squares.sum::<f64>() / dv as f64;
            let scale = (1.0 / (variance + f64::from(norm.eps)).sqrt()) as f32;
            let bias = self.scan.bias.get(first..first + dv);
            for (j, h) in h.iter_mut().enumerate() {
                let normed = (*h - mean as f32) * scale * self.scan.weight[first + j];
                *h = normed + bias.map_or(0.0, |bias| bias[j]);
            }
        }
        let gate = &self.part(3, t)[..dv];
        h.iter_mut().zip(gate).for_each(|(h, gate)| *h /= 1.0 + (-gate).exp());
        if let Some((stream, stride)) = self.stream {
            let gate = &stream[t * stride + first..][..dv];
            h.iter_mut().zip(gate).for_each(|(h, gate)| *h *= gate / (1.0 + (-gate).exp()));
        }
    }
}
