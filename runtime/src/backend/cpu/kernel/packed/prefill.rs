//! Products for many tokens: a tile with one row per vector lane, unpacked once for all tokens.

use kinglet_quant::Blocks;

use super::activations::{BLOCK, Int8, Token};
use super::decode::unpack;
use super::{DecodeScales, SCALES, bias_bytes, by_codes, code_factors};
use crate::backend::cpu::simd::codes::MOST_CODES;
use crate::backend::cpu::simd::{Kernel, Simd, load, store};

/// Columns per tile.
const COLS: usize = 512;
/// Most groups in a tile's row.
const GROUPS: usize = COLS / 16;
/// Most lanes.
const LANES: usize = MOST_CODES / 4;

/// `out[t * out_stride + r] = W[first_row + r] . x[t]` for `r < rows` and all tokens.
pub(crate) struct Prefill<'a, 'o> {
    pub weight: Blocks<'a>,
    pub first_row: usize,
    pub rows: usize,
    pub x: Int8<'a>,
    pub out: &'o mut [f32],
    pub out_stride: usize,
}

/// Codes of some columns for one row per lane, with their scales.
struct Tile {
    /// `[columns / 4, lanes, 4]`.
    codes: [u8; COLS * LANES],
    /// `[groups, lanes]`.
    scales: [f32; GROUPS * LANES],
    biases: [f32; GROUPS * LANES],
}

/// The columns of a tile.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    len: usize,
    group: usize,
}

impl Kernel for Prefill<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (cols, format) = (self.weight.cols(), self.weight.format());
        let mut tile = Tile {
            codes: [0; COLS * LANES],
            scales: [0.0; GROUPS * LANES],
            biases: [0.0; GROUPS * LANES],
        };
        for row in (0..self.rows).step_by(S::LANES) {
            let rows = S::LANES.min(self.rows - row);
            for start in (0..cols).step_by(COLS) {
                let span = Span { start, len: COLS.min(cols - start), group: format.group() };
                s.apart(Fill {
                    weight: self.weight,
                    first: self.first_row + row,
                    rows,
                    span,
                    tile: &mut tile,
                });
                if format.bits() <= 6 {
                    s.apart(self.tokens::<true>(&tile, span, row, rows));
                } else {
                    s.apart(self.tokens::<false>(&tile, span, row, rows));
                }
            }
        }
    }
}

impl Prefill<'_, '_> {
    fn tokens<'t, const SMALL: bool>(
        &'t mut self,
        tile: &'t Tile,
        span: Span,
        row: usize,
        rows: usize,
    ) -> Tokens<'t, SMALL> {
        let (factor, out_stride) = (self.weight.factor(), self.out_stride);
        Tokens { x: self.x, tile, span, row, rows, factor, out: self.out, out_stride }
    }
}

/// Unpacks `rows` rows from `first` on. Further lanes are unspecified.
struct Fill<'a, 'o> {
    weight: Blocks<'a>,
    first: usize,
    rows: usize,
    span: Span,
    tile: &'o mut Tile,
}

impl Kernel for Fill<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        by_codes!(self.weight, fill::<S>(s, self));
    }
}

#[inline(always)]
fn fill<S: Simd, const BITS: usize, const TABLE: bool>(s: S, job: Fill<'_, '_>) {
    let Fill { weight, first, rows, span, tile } = job;
    let bytes = S::COUNT * BITS / 8;
    let (row_groups, count) = (weight.cols() / span.group, span.len / span.group);
    let (scale_type, bias_bytes) = (weight.scale_type(), bias_bytes(&weight, TABLE));
    let (code_factor, bias_factor) = code_factors(TABLE);
    let (mut scales, mut biases) = ([[0.0f32; SCALES]], [[0.0f32; SCALES]]);
    let mut row = [0u8; COLS];
    for r in 0..rows {
        let packed = &weight.row_codes(first + r)[span.start / 8 * BITS..];
        let packed = &packed[..span.len / 8 * BITS];
        for (packed, out) in packed.chunks(bytes).zip(row.chunks_exact_mut(S::COUNT)) {
            s.store_codes(unpack::<S, BITS, TABLE>(s, packed), out);
        }
        let fours = row.as_chunks::<4>().0.iter().take(span.len / 4);
        let out = tile.codes.as_chunks_mut::<4>().0;
        for (four, out) in fours.zip(out[r..].iter_mut().step_by(S::LANES)) {
            *out = *four;
        }
        let first = (first + r) * row_groups + span.start / span.group;
        for (bytes, factor, out) in
            [(weight.scales(), code_factor, &mut scales), (bias_bytes, bias_factor, &mut biases)]
        {
            s.apart(DecodeScales { scale_type, bytes, first, stride: 0, count, factor, out });
        }
        for g in 0..count {
            tile.scales[g * S::LANES + r] = scales[0][g];
            tile.biases[g * S::LANES + r] = biases[0][g];
        }
    }
}

/// Multiplies all tokens with the rows of a tile. `SMALL` codes have at most six bits, so that their
/// products can be summed faster.
struct Tokens<'a, const SMALL: bool> {
    x: Int8<'a>,
    tile: &'a Tile,
    span: Span,
    row: usize,
    rows: usize,
    /// The factor of all weights.
    factor: f32,
    out: &'a mut [f32],
    out_stride: usize,
}

impl<const SMALL: bool> Kernel for Tokens<'_, SMALL> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut token = 0;
        if S::WIDE {
            while token + 8 <= self.x.tokens {
                tokens::<S, SMALL, 8>(s, &mut self, token);
                token += 8;
            }
        }
        while token + 4 <= self.x.tokens {
            tokens::<S, SMALL, 4>(s, &mut self, token);
            token += 4;
        }
        while token < self.x.tokens {
            tokens::<S, SMALL, 1>(s, &mut self, token);
            token += 1;
        }
    }
}

#[inline(always)]
fn tokens<S: Simd, const SMALL: bool, const M: usize>(
    s: S,
    job: &mut Tokens<'_, SMALL>,
    token: usize,
) {
    let (tile, span) = (job.tile, job.span);
    let x: [Token<'_>; M] = std::array::from_fn(|m| job.x.token(token + m));
    let fours: [&[i32]; M] =
        std::array::from_fn(|m| &x[m].fours()[span.start / 4..][..span.len / 4]);
    let x_scales: [&[f32]; M] = std::array::from_fn(|m| &x[m].scales()[span.start / BLOCK..]);
    let vector = |values: &[f32], g: usize| load(s, &values[g * S::LANES..][..S::LANES]);
    let mut sums = [s.zero(); M];
    // A part shares both scales, the weights' and the activations'.
    let part = BLOCK.min(span.group);
    let (part_shift, group_shift) = (part.trailing_zeros(), span.group.trailing_zeros());
    for p in 0..span.len >> part_shift {
        let mut dots = [s.no_sums(); M];
        for four in p * part / 4..(p + 1) * part / 4 {
            let codes = s.load_codes(&tile.codes[four * S::COUNT..][..S::COUNT]);
            for m in 0..M {
                dots[m] = s.dot_splat::<SMALL>(dots[m], codes, fours[m][four]);
            }
        }
        let scale = vector(&tile.scales, (p << part_shift) >> group_shift);
        for m in 0..M {
            let scale = s.mul(scale, s.splat(x_scales[m][p * part / BLOCK]));
            sums[m] = s.fma(s.sums_as_floats(dots[m]), scale, sums[m]);
        }
    }
    for g in 0..span.len / span.group {
        let bias = vector(&tile.biases, g);
        for m in 0..M {
            let x_sum = x[m].sums(span.group)[span.start / span.group + g];
            sums[m] = s.fma(bias, s.splat(x_sum), sums[m]);
        }
    }
    let factor = s.splat(job.factor);
    for m in 0..M {
        let out = &mut job.out[(token + m) * job.out_stride + job.row..][..job.rows];
        let sum = s.mul(factor, sums[m]);
        let sum = if span.start == 0 { sum } else { s.add(load(s, out), sum) };
        store(s, sum, out);
    }
}
