//! Products for few tokens: the codes stream through the registers once.

use kinglet_quant::Blocks;

use super::activations::{Int8, Token};
use super::{BiasDots, DecodeScales, E2M1, SCALES, bias_bytes, by_codes, code_factors};
use crate::backend::cpu::simd::codes::Codes;
use crate::backend::cpu::simd::{Kernel, Simd};

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
    // Groups are powers of two, so use shifts instead of divisions in the loops.
    let shift = group.trailing_zeros();
    let bytes = S::COUNT * BITS / 8;
    let row_groups = cols >> shift;
    let first_group = |r: usize| (job.first_row + row + r) * row_groups;
    let rows: [&[u8]; R] = std::array::from_fn(|r| weight.row_codes(job.first_row + row + r));
    let x: [Token<'_>; M] = std::array::from_fn(|m| job.x.token(token + m));
    let x_codes: [&[S::Signed]; M] = std::array::from_fn(|m| S::signed(x[m].codes()));
    let x_lanes: [&[S::Block]; M] = std::array::from_fn(|m| S::blocks(x[m].lanes()).0);
    let ahead = R * weight.format().row_bytes(cols);
    let (code_factor, bias_factor) = code_factors(TABLE);
    let scale_type = weight.scale_type();
    let mut sums = [[s.zero(); M]; R];
    let mut rest = [[0.0f32; M]; R];
    let mut scales = [[0.0f32; SCALES]; R];
    for start in (0..cols).step_by(CHUNK) {
        let len = CHUNK.min(cols - start);
        s.apart(DecodeScales {
            scale_type,
            bytes: weight.scales(),
            first: first_group(0) + (start >> shift),
            stride: row_groups,
            count: len >> shift,
            factor: code_factor,
            out: &mut scales,
        });
        let first = start / S::COUNT;
        let whole = len / S::COUNT;
        for v in 0..whole {
            let at = (first + v) * bytes;
            for r in 0..R {
                let packed = &rows[r][at..][..bytes];
                if M == 1 {
                    // Rows are too short for the hardware prefetcher, which restarts with each row.
                    s.prefetch(packed.as_ptr().wrapping_add(ahead));
                }
                let scale = s.group_scales(&scales[r][(v * S::COUNT) >> shift..], group);
                let codes = unpack::<S, BITS, TABLE>(s, packed);
                for m in 0..M {
                    let dot = dot::<S, BITS>(s, codes, &x_codes[m][first + v]);
                    let scale = s.mul(scale, s.load(&x_lanes[m][first + v]));
                    sums[r][m] = s.fma(dot, scale, sums[r][m]);
                }
            }
        }
        if whole * S::COUNT < len {
            // The last columns of a row, rarely a whole vector.
            let (v, group_of) = (first + whole, (whole * S::COUNT) >> shift);
            for r in 0..R {
                let (packed, scales) = (&rows[r][v * bytes..], &scales[r][group_of..]);
                for m in 0..M {
                    let x = x[m];
                    rest[r][m] = s.apart(Rest::<BITS, TABLE> { packed, scales, group, x, v });
                }
            }
        }
    }
    let biases = s.apart(BiasDots::<R, M> {
        scale_type,
        bytes: bias_bytes(&weight, TABLE),
        first: first_group(0),
        groups: row_groups,
        x: std::array::from_fn(|m| x[m].sums(group)),
    });
    for r in 0..R {
        for m in 0..M {
            let sum = s.sum(sums[r][m]) + rest[r][m] + bias_factor * biases[r][m];
            job.out[(token + m) * job.out_stride + row + r] = sum * weight.factor();
        }
    }
}

/// The codes of a row after its whole vectors, without the bias.
struct Rest<'a, const BITS: usize, const TABLE: bool> {
    packed: &'a [u8],
    /// From the first column's scale on.
    scales: &'a [f32],
    group: usize,
    x: Token<'a>,
    /// The vector of the activations.
    v: usize,
}

impl<const BITS: usize, const TABLE: bool> Kernel for Rest<'_, BITS, TABLE> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let codes = unpack::<S, BITS, TABLE>(s, self.packed);
        let dot = dot::<S, BITS>(s, codes, &S::signed(self.x.codes())[self.v]);
        let lanes = s.load(&S::blocks(self.x.lanes()).0[self.v]);
        s.sum(s.mul(dot, s.mul(s.group_scales(self.scales, self.group), lanes)))
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
    // `BITS <= 6` can't be used as a const argument.
    s.sums_as_floats(if BITS <= 6 {
        s.dot::<true>(s.no_sums(), codes, x)
    } else {
        s.dot::<false>(s.no_sums(), codes, x)
    })
}
