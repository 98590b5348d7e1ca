//! What the gated delta rule needs beside matrix products: a token's step of the state, the decays of a chunk, and the triangular
//! system that a chunk's updates solve.

use crate::backend::cpu::simd::{Kernel, Simd, load, math, store};

/// Rows of a chunk that are worked on together: within them decays are exact pair by pair, and the triangular system is solved row
/// by row.
pub(crate) const BLOCK: usize = 8;

/// `x = factor * x / sqrt(x . x + eps)`.
pub(crate) struct Unit<'a> {
    pub x: &'a [f32],
    pub eps: f32,
    pub factor: f32,
    pub out: &'a mut [f32],
}

impl Kernel for Unit<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, eps, factor, out } = self;
        let mut sum = s.zero();
        for start in (0..x.len()).step_by(S::LANES) {
            let part = load(s, &x[start..x.len().min(start + S::LANES)]);
            sum = s.fma(part, part, sum);
        }
        let scale = s.splat(factor / (s.sum(sum) + eps).sqrt());
        for start in (0..x.len()).step_by(S::LANES) {
            let end = x.len().min(start + S::LANES);
            store(s, s.mul(scale, load(s, &x[start..end])), &mut out[start..end]);
        }
    }
}

/// `x = a * softplus(x + bias)`: log decays. A single bias stands for all elements.
pub(crate) struct LogDecay<'a> {
    pub x: &'a mut [f32],
    pub bias: &'a [f32],
    /// `-exp(a_log)`.
    pub a: f32,
}

impl Kernel for LogDecay<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, bias, a } = self;
        let a = s.splat(a);
        for start in (0..x.len()).step_by(S::LANES) {
            let end = x.len().min(start + S::LANES);
            let bias = match bias {
                [bias] => s.splat(*bias),
                _ => load(s, &bias[start..end]),
            };
            let sum = s.add(load(s, &x[start..end]), bias);
            store(s, s.mul(a, math::softplus(s, sum)), &mut x[start..end]);
        }
    }
}

/// One token's step of a head: `u = beta (v - S^T diag(decay) k)`, `out = S^T diag(decay) q + (k . q) u`,
/// `S = diag(decay) S + k u^T`.
pub(crate) struct DeltaStep<'a> {
    /// `q`, `[keys]`.
    pub query: &'a [f32],
    /// `k`, `[keys]`.
    pub key: &'a [f32],
    /// `e^g`, `[keys]`.
    pub decay: &'a [f32],
    /// `v`, `[values]`.
    pub value: &'a [f32],
    pub beta: f32,
    /// `k . q`.
    pub own: f32,
    /// `[values]`.
    pub out: &'a mut [f32],
    /// `S`, `[keys, values]`.
    pub state: &'a mut [f32],
}

impl Kernel for DeltaStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let width = self.value.len();
        let mut start = 0;
        // A block's columns of the state fit the first-level cache, which gives them the second time.
        while start + 4 * S::LANES <= width {
            self.block::<S, 4>(s, start);
            start += 4 * S::LANES;
        }
        while start < width {
            let end = (start + S::LANES).min(width);
            let (mut held, mut read) = (s.zero(), s.zero());
            for (i, row) in self.state.chunks_mut(width).enumerate() {
                let row = &mut row[start..end];
                let kept = s.mul(s.splat(self.decay[i]), load(s, row));
                held = s.fma(s.splat(self.key[i]), kept, held);
                read = s.fma(s.splat(self.query[i]), kept, read);
                store(s, kept, row);
            }
            let v = load(s, &self.value[start..end]);
            let update = s.mul(s.splat(self.beta), s.sub(v, held));
            store(s, s.fma(s.splat(self.own), update, read), &mut self.out[start..end]);
            for (row, &k) in self.state.chunks_mut(width).zip(self.key) {
                let row = &mut row[start..end];
                store(s, s.fma(s.splat(k), update, load(s, row)), row);
            }
            start = end;
        }
    }
}

impl DeltaStep<'_> {
    #[inline(always)]
    fn block<S: Simd, const V: usize>(&mut self, s: S, start: usize) {
        let (width, len) = (self.value.len(), V * S::LANES);
        let (mut held, mut read) = ([s.zero(); V], [s.zero(); V]);
        for (i, row) in self.state.chunks_mut(width).enumerate() {
            let (decay, k, q) =
                (s.splat(self.decay[i]), s.splat(self.key[i]), s.splat(self.query[i]));
            let row = &mut S::blocks_mut(&mut row[start..start + len]).0[..V];
            for v in 0..V {
                let kept = s.mul(decay, s.load(&row[v]));
                held[v] = s.fma(k, kept, held[v]);
                read[v] = s.fma(q, kept, read[v]);
                s.store(kept, &mut row[v]);
            }
        }
        let value = &S::blocks(&self.value[start..start + len]).0[..V];
        let out = &mut S::blocks_mut(&mut self.out[start..start + len]).0[..V];
        let mut update = [s.zero(); V];
        for v in 0..V {
            update[v] = s.mul(s.splat(self.beta), s.sub(s.load(&value[v]), held[v]));
            s.store(s.fma(s.splat(self.own), update[v], read[v]), &mut out[v]);
        }
        for (row, &k) in self.state.chunks_mut(width).zip(self.key) {
            let row = &mut S::blocks_mut(&mut row[start..start + len]).0[..V];
            for v in 0..V {
                s.store(s.fma(s.splat(k), update[v], s.load(&row[v])), &mut row[v]);
            }
        }
    }
}

/// Solves `U = U + L U` for a block of rows, with `L` strictly lower triangular: row `i` of `u` gains `l[i, j]` times row `j` for
/// `j < i`.
pub(crate) struct SolveBlock<'a> {
    /// `L[i, j]` is `l[i * stride + j]`.
    pub l: &'a [f32],
    pub stride: usize,
    /// `[rows, width]`, at most [`BLOCK`] rows.
    pub u: &'a mut [f32],
    pub width: usize,
}

impl Kernel for SolveBlock<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { l, stride, u, width } = self;
        let rows = u.len() / width;
        for start in (0..width).step_by(S::LANES) {
            let end = width.min(start + S::LANES);
            let mut solved = [s.zero(); BLOCK];
            for i in 0..rows {
                let mut row = load(s, &u[i * width + start..i * width + end]);
                for (j, solved) in solved[..i].iter().enumerate() {
                    row = s.fma(s.splat(l[i * stride + j]), *solved, row);
                }
                solved[i] = row;
                store(s, row, &mut u[i * width + start..i * width + end]);
            }
        }
    }
}

/// A block of tokens where each channel decays by itself: decayed queries and keys, and the block's products. Sums of log decays run
/// between the two tokens in question and are never differences, so that no length of a chunk costs accuracy; factors over several
/// blocks are products of theirs. All exponents are at most 0.
pub(crate) struct ChannelDecays<'a> {
    /// Log decays of the block's tokens, `[rows, keys]`.
    pub g: &'a [f32],
    /// Queries and keys of the block's tokens, `[rows, keys]`.
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub keys: usize,
    /// `[keys]`: the decay from the chunk's beginning to the block's; becomes that to the block's end.
    pub before: &'a mut [f32],
    /// `[keys]`: the decay over the block.
    pub total: &'a mut [f32],
    /// `[rows, keys]`: queries and keys, decayed from the block's beginning.
    pub q_block: &'a mut [f32],
    pub k_block: &'a mut [f32],
    /// `[rows, keys]`: the same from the chunk's beginning.
    pub q_chunk: &'a mut [f32],
    pub k_chunk: &'a mut [f32],
    /// `[rows, keys]`: keys, decayed to the block's end.
    pub k_rest: &'a mut [f32],
    /// `q_i . k_j` for the block's tokens, decayed: `[row, j]`, rows `stride` apart; only `j <= i` is written.
    pub scores: &'a mut [f32],
    /// The same of `k_i . k_j`; only `j < i` is written.
    pub system: &'a mut [f32],
    pub stride: usize,
}

impl Kernel for ChannelDecays<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { g, q, k, keys, before, scores, system, stride, .. } = self;
        let rows = g.len() / keys;
        let mut qk = [[s.zero(); BLOCK]; BLOCK];
        let mut kk = [[s.zero(); BLOCK]; BLOCK];
        for start in (0..keys).step_by(S::LANES) {
            let end = keys.min(start + S::LANES);
            let at = |row: usize| row * keys + start..row * keys + end;
            let held = load(s, &before[start..end]);
            let mut until = s.zero();
            for i in 0..rows {
                until = s.add(until, load(s, &g[at(i)]));
                let factor = math::exp(s, until);
                let query = s.mul(factor, load(s, &q[at(i)]));
                let key = s.mul(factor, load(s, &k[at(i)]));
                store(s, query, &mut self.q_block[at(i)]);
                store(s, key, &mut self.k_block[at(i)]);
                store(s, s.mul(held, query), &mut self.q_chunk[at(i)]);
                store(s, s.mul(held, key), &mut self.k_chunk[at(i)]);
            }
            let total = math::exp(s, until);
            store(s, total, &mut self.total[start..end]);
            store(s, s.mul(held, total), &mut before[start..end]);
            for j in 0..rows {
                let key = load(s, &k[at(j)]);
                qk[j][j] = s.fma(load(s, &q[at(j)]), key, qk[j][j]);
                let (mut after, mut decayed) = (s.zero(), key);
                for i in j + 1..rows {
                    after = s.add(after, load(s, &g[at(i)]));
                    decayed = s.mul(math::exp(s, after), key);
                    qk[i][j] = s.fma(load(s, &q[at(i)]), decayed, qk[i][j]);
                    kk[i][j] = s.fma(load(s, &k[at(i)]), decayed, kk[i][j]);
                }
                store(s, decayed, &mut self.k_rest[at(j)]);
            }
        }
        for i in 0..rows {
            for j in 0..i {
                scores[i * stride + j] = s.sum(qk[i][j]);
                system[i * stride + j] = s.sum(kk[i][j]);
            }
            scores[i * stride + i] = s.sum(qk[i][i]);
        }
    }
}

/// Multiplies each row of `x`, `[.., by.len()]`, by `by`, element by element.
pub(crate) struct ScaleRows<'a> {
    pub x: &'a mut [f32],
    pub by: &'a [f32],
}

impl Kernel for ScaleRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, by } = self;
        for row in x.chunks_mut(by.len()) {
            for start in (0..by.len()).step_by(S::LANES) {
                let end = by.len().min(start + S::LANES);
                let value = s.mul(load(s, &row[start..end]), load(s, &by[start..end]));
                store(s, value, &mut row[start..end]);
            }
        }
    }
}
