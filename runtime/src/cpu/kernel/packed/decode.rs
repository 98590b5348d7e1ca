//! Few tokens: the codes stream through the registers once.

use kinglet_quant::Blocks;

use super::activations::{Int8, Token};
use super::{E2M1, SCALES, by_codes, scales_and_biases};
use crate::cpu::simd::codes::Codes;
use crate::cpu::simd::{Kernel, Simd, load};

/// Columns whose scales are decoded at a time: at most 64 groups.
const CHUNK: usize = 1024;

/// `out[t * out_stride + r] = W[first_row + r] . x[t]` for `r < rows` and all tokens.
pub(crate) struct Decode<'a, 'o> {
    pub weight: Blocks<'a>,
    pub first_row: usize,
    pub rows: usize,
    pub x: Int8<'a>,
    pub out: &'o mut [f32],
    pub out_stride: usize,
}

impl Kernel for Decode<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let weight = self.weight;
        by_codes!(weight, rows::<S>(s, &mut self));
    }
}

#[inline(always)]
fn rows<S: Simd, const BITS: usize, const TABLE: bool>(s: S, job: &mut Decode<'_, '_>) {
    let mut row = 0;
    if job.x.tokens == 1 {
        while row + 4 <= job.rows {
            tile::<S, BITS, TABLE, 4, 1>(s, job, row, 0);
            row += 4;
        }
    } else {
        while row + 2 <= job.rows {
            // The second pair of tokens finds the rows in the first-level cache.
            let mut token = 0;
            while token + 2 <= job.x.tokens {
                tile::<S, BITS, TABLE, 2, 2>(s, job, row, token);
                token += 2;
            }
            if token < job.x.tokens {
                tile::<S, BITS, TABLE, 1, 1>(s, job, row, token);
                tile::<S, BITS, TABLE, 1, 1>(s, job, row + 1, token);
            }
            row += 2;
        }
    }
    while row < job.rows {
        for token in 0..job.x.tokens {
            tile::<S, BITS, TABLE, 1, 1>(s, job, row, token);
        }
        row += 1;
    }
}

#[inline(always)]
fn tile<S: Simd, const BITS: usize, const TABLE: bool, const R: usize, const M: usize>(
    s: S,
    job: &mut Decode<'_, '_>,
    row: usize,
    token: usize,
) {
    let (weight, cols) = (job.weight, job.weight.cols());
    let group = weight.format().group();
    let bytes = S::COUNT * BITS / 8;
    let rows: [&[u8]; R] = std::array::from_fn(|r| weight.row_codes(job.first_row + row + r));
    let x: [Token<'_>; M] = std::array::from_fn(|m| job.x.token(token + m));
    let x_codes: [&[S::Signed]; M] = std::array::from_fn(|m| S::signed(x[m].codes()));
    let x_lanes: [&[S::Block]; M] = std::array::from_fn(|m| S::blocks(x[m].lanes()).0);
    let ahead = R * weight.format().row_bytes(cols);
    let mut sums = [[s.zero(); M]; R];
    let (mut scales, mut biases) = ([[0.0f32; SCALES]; R], [0.0f32; SCALES]);
    for start in (0..cols).step_by(CHUNK) {
        let len = CHUNK.min(cols - start);
        let groups = (start / group, len / group);
        for r in 0..R {
            let row = job.first_row + row + r;
            scales_and_biases::<S, TABLE>(s, &weight, row, groups, &mut scales[r], &mut biases);
            for m in 0..M {
                let x_sums = &x[m].sums(group)[groups.0..][..groups.1];
                for (x, b) in x_sums.chunks(S::LANES).zip(biases[..groups.1].chunks(S::LANES)) {
                    sums[r][m] = s.fma(load(s, b), load(s, x), sums[r][m]);
                }
            }
        }
        let first = start / S::COUNT;
        let whole = len / S::COUNT;
        for v in 0..whole {
            let at = (first + v) * bytes;
            for r in 0..R {
                let packed = &rows[r][at..][..bytes];
                if M == 1 {
                    // Rows are short for the processor's own prefetcher, which begins anew with each.
                    s.prefetch(packed.as_ptr().wrapping_add(ahead));
                }
                let scale = s.group_scales(&scales[r][v * S::COUNT / group..], group);
                let codes = unpack::<S, BITS, TABLE>(s, packed);
                for m in 0..M {
                    let dot = dot::<S, BITS>(s, codes, &x_codes[m][first + v]);
                    let scale = s.mul(scale, s.load(&x_lanes[m][first + v]));
                    sums[r][m] = s.fma(dot, scale, sums[r][m]);
                }
            }
        }
        if whole * S::COUNT < len {
            let v = first + whole;
            for r in 0..R {
                let scale = s.group_scales(&scales[r][whole * S::COUNT / group..], group);
                let codes = unpack::<S, BITS, TABLE>(s, &rows[r][v * bytes..]);
                for m in 0..M {
                    let dot = dot::<S, BITS>(s, codes, &x_codes[m][v]);
                    let scale = s.mul(scale, s.load(&x_lanes[m][v]));
                    sums[r][m] = s.fma(dot, scale, sums[r][m]);
                }
            }
        }
    }
    for m in 0..M {
        for r in 0..R {
            let sum = s.sum(sums[r][m]) * weight.factor();
            job.out[(token + m) * job.out_stride + row + r] = sum;
        }
    }
}

#[inline(always)]
pub(super) fn unpack<S: Simd, const BITS: usize, const TABLE: bool>(
    s: S,
    packed: &[u8],
) -> S::Bytes {
    let codes = s.unpack::<BITS>(packed);
    if TABLE { s.look_up(codes, &E2M1) } else { codes }
}

#[inline(always)]
fn dot<S: Simd, const BITS: usize>(s: S, codes: S::Bytes, x: &<S as Codes>::Signed) -> S::F {
    // `BITS <= 6` cannot stand in the place of a constant of the type.
    s.sums_as_floats(if BITS <= 6 {
        s.dot::<true>(s.no_sums(), codes, x)
    } else {
        s.dot::<false>(s.no_sums(), codes, x)
    })
}
