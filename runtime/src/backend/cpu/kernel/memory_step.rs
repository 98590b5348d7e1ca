//! One token's step of a matrix memory, shared by Mamba-2 (the `S` of state-space duality) and
//! mLSTM (`C`).
//!
//! The state streams through the registers once, read and written; blocks of the value stay in
//! them.

use crate::backend::cpu::simd::{Kernel, Simd, load, store};

/// `out = decay q^T S + own v`, then `S = decay S + input k v^T`.
///
/// `own` is the token's own contribution as one factor: `input k . q` and the other factors of `v`.
/// Its rounding is therefore common to the whole head, as in the chunkwise forms.
pub(crate) struct MemoryStep<'a> {
    /// `q`, `[keys]`.
    pub query: &'a [f32],
    /// `k`, `[keys]`.
    pub key: &'a [f32],
    /// `v`, `[values]`.
    pub value: &'a [f32],
    pub decay: f32,
    pub input: f32,
    pub own: f32,
    /// `[values]`.
    pub out: &'a mut [f32],
    /// `S`, `[keys, values]`.
    pub state: &'a mut [f32],
}

impl Kernel for MemoryStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let width = self.value.len();
        let mut start = 0;
        while start + 8 * S::LANES <= width && S::WIDE {
            self.block::<S, 8>(s, start);
            start += 8 * S::LANES;
        }
        while start + 4 * S::LANES <= width {
            self.block::<S, 4>(s, start);
            start += 4 * S::LANES;
        }
        while start < width {
            let end = (start + S::LANES).min(width);
            let v = load(s, &self.value[start..end]);
            let mut sum = s.zero();
            for (i, row) in self.state.chunks_mut(width).enumerate() {
                let row = &mut row[start..end];
                let held = load(s, row);
                sum = s.fma(s.splat(self.query[i]), held, sum);
                let kept = s.mul(s.splat(self.decay), held);
                store(s, s.fma(s.splat(self.input * self.key[i]), v, kept), row);
            }
            let own = s.mul(s.splat(self.own), v);
            store(s, s.fma(s.splat(self.decay), sum, own), &mut self.out[start..end]);
            start = end;
        }
    }
}

impl MemoryStep<'_> {
    #[inline(always)]
    fn block<S: Simd, const V: usize>(&mut self, s: S, start: usize) {
        let (width, len) = (self.value.len(), V * S::LANES);
        let decay = s.splat(self.decay);
        let blocks = &S::blocks(&self.value[start..start + len]).0[..V];
        let mut v = [s.zero(); V];
        for i in 0..V {
            v[i] = s.load(&blocks[i]);
        }
        let mut sums = [s.zero(); V];
        for ((row, &k), &q) in self.state.chunks_mut(width).zip(self.key).zip(self.query) {
            let (k, q) = (s.splat(self.input * k), s.splat(q));
            let row = &mut S::blocks_mut(&mut row[start..start + len]).0[..V];
            for i in 0..V {
                let held = s.load(&row[i]);
                sums[i] = s.fma(q, held, sums[i]);
                s.store(s.fma(k, v[i], s.mul(decay, held)), &mut row[i]);
            }
        }
        let out = &mut S::blocks_mut(&mut self.out[start..start + len]).0[..V];
        let own = s.splat(self.own);
        for i in 0..V {
            s.store(s.fma(decay, sums[i], s.mul(own, v[i])), &mut out[i]);
        }
    }
}
