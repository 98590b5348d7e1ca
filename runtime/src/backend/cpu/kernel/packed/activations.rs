//! Activations in eight bits.
//!
//! Every 32 columns of a token share a scale `a = max |x| / 127`, and `x' = round(x / a)`, so that
//! `|x - a x'| <= a / 2`. The scales by lane, and the sums `a x'` over the weights' groups, are
//! computed once for all kernels.

use super::super::dot::Vectors;
use crate::backend::cpu::simd::{Kernel, Simd};

/// Columns that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Zeros after each kind of sums, so that the last vector is whole.
const SPARE: usize = 16;

/// The offsets of the parts of one token's record, in units of four bytes.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    cols: usize,
    /// `cols`, rounded up so that codes, scales and sums are whole vectors on every unit.
    padded: usize,
}

impl Layout {
    pub(crate) fn new(cols: usize) -> Self {
        Self { cols, padded: cols.next_multiple_of(128) }
    }

    /// Length of a record.
    pub(crate) fn len(self) -> usize {
        // The sums over 128 columns come last.
        self.sums(128) + self.padded / 128 + SPARE
    }

    /// Offset of the sums over `group` columns.
    fn sums(self, group: usize) -> usize {
        let p = self.padded;
        let begin = 2 * (p / 4) + p / 32;
        match group {
            16 => begin,
            32 => begin + p / 16 + SPARE,
            64 => begin + p / 16 + p / 32 + 2 * SPARE,
            _ => begin + p / 16 + p / 32 + p / 64 + 3 * SPARE,
        }
    }
}

/// Consecutive records of `tokens` tokens.
#[derive(Clone, Copy)]
pub(crate) struct Int8<'a> {
    records: &'a [f32],
    layout: Layout,
    pub tokens: usize,
}

/// One token's record.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    record: &'a [f32],
    layout: Layout,
}

impl<'a> Int8<'a> {
    /// `records` must have been filled by [`Quantize`].
    pub(crate) fn new(records: &'a [f32], layout: Layout, tokens: usize) -> Self {
        Self { records, layout, tokens }
    }

    /// The tokens `first..first + tokens`.
    pub(crate) fn slice(self, first: usize, tokens: usize) -> Self {
        Self { records: &self.records[first * self.layout.len()..], tokens, ..self }
    }

    #[inline(always)]
    pub(super) fn token(&self, token: usize) -> Token<'a> {
        let len = self.layout.len();
        Token { record: &self.records[token * len..][..len], layout: self.layout }
    }
}

impl<'a> Token<'a> {
    /// `x'`, followed by zeros.
    #[inline(always)]
    pub(super) fn codes(&self) -> &'a [i8] {
        bytemuck::cast_slice(&self.record[..self.layout.padded / 4])
    }

    /// `x'` in groups of four.
    #[inline(always)]
    pub(super) fn fours(&self) -> &'a [i32] {
        bytemuck::cast_slice(&self.record[..self.layout.padded / 4])
    }

    /// The scale of every four columns, one for each lane of a vector of codes.
    #[inline(always)]
    pub(super) fn lanes(&self) -> &'a [f32] {
        &self.record[self.layout.padded / 4..][..self.layout.padded / 4]
    }

    /// The scale of every block.
    #[inline(always)]
    pub(super) fn scales(&self) -> &'a [f32] {
        &self.record[self.layout.padded / 2..][..self.layout.padded / BLOCK]
    }

    /// `a x'` summed over every `group` columns, followed by zeros to the end of a vector.
    #[inline(always)]
    pub(super) fn sums(&self, group: usize) -> &'a [f32] {
        &self.record[self.layout.sums(group)..][..self.layout.padded / group + SPARE]
    }
}

/// Fills one token's record.
pub(crate) struct Quantize<'a, 'o> {
    pub x: &'a [f32],
    pub layout: Layout,
    /// Its length is [`Layout::len`].
    pub record: &'o mut [f32],
}

impl Kernel for Quantize<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, layout, record } = self;
        let padded = layout.padded;
        debug_assert_eq!(x.len(), layout.cols);
        let (codes, rest) = record.split_at_mut(padded / 4);
        let codes: &mut [i8] = bytemuck::cast_slice_mut(codes);
        let (lanes, rest) = rest.split_at_mut(padded / 4);
        let (scales, rest) = rest.split_at_mut(padded / BLOCK);
        rest.fill(0.0);
        let (sums16, rest) = rest.split_at_mut(padded / 16 + SPARE);
        let (sums32, rest) = rest.split_at_mut(padded / 32 + SPARE);
        let (sums64, sums128) = rest.split_at_mut(padded / 64 + SPARE);
        let blocks = codes.chunks_exact_mut(BLOCK).enumerate();
        for (index, codes) in blocks {
            let mut block = [0.0f32; BLOCK];
            match x.get(index * BLOCK..(index + 1) * BLOCK) {
                Some(whole) => block.copy_from_slice(whole),
                None => {
                    let rest = x.get(index * BLOCK..).unwrap_or_default();
                    block[..rest.len()].copy_from_slice(rest);
                }
            }
            let mut largest = s.zero();
            for v in S::blocks(&block).0 {
                let v = s.load(v);
                largest = s.max(s.max(v, s.sub(s.zero(), v)), largest);
            }
            let largest = s.max_lane(largest);
            let scale = largest / 127.0;
            // A block of zeros stays zero, and so does one whose scale underflows.
            let inverse = if scale >= f32::MIN_POSITIVE { 127.0 / largest } else { 0.0 };
            let factor = s.splat(inverse);
            for v in S::blocks_mut(&mut block).0 {
                let rounded = s.round(s.mul(s.load(v), factor));
                s.store(rounded, v);
            }
            let mut halves = [0i32; 2];
            for (half, (codes, block)) in
                codes.chunks_exact_mut(16).zip(block.chunks_exact(16)).enumerate()
            {
                let mut sum = 0;
                for (code, &value) in codes.iter_mut().zip(block) {
                    let whole = value as i32;
                    *code = whole as i8;
                    sum += whole;
                }
                halves[half] = sum;
            }
            // Values that are not finite must not be lost: the result is NaN.
            let bad = x.get(index * BLOCK..).unwrap_or_default();
            let bad = !scale.is_finite() || bad.iter().take(BLOCK).any(|x| x.is_nan());
            let scale = if bad { f32::NAN } else { scale };
            lanes[index * BLOCK / 4..][..BLOCK / 4].fill(scale);
            scales[index] = scale;
            for half in 0..2 {
                sums16[2 * index + half] = scale * halves[half] as f32;
            }
            sums32[index] = scale * (halves[0] + halves[1]) as f32;
        }
        for (pair, sum) in sums32.chunks_exact(2).zip(sums64.iter_mut()) {
            *sum = pair[0] + pair[1];
        }
        for (pair, sum) in sums64.chunks_exact(2).zip(sums128) {
            *sum = pair[0] + pair[1];
        }
    }
}

/// Token `t` of `x`, in the form that [`Quantize`] takes.
#[inline(always)]
pub(crate) fn row<'a>(x: Vectors<'a>, t: usize, cols: usize) -> &'a [f32] {
    &x.x[t * x.stride..][..cols]
}
