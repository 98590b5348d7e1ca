//! Many tokens: a tile of as many rows as a vector has lanes, unpacked once for all tokens.

use kinglet_quant::Blocks;

use super::activations::{BLOCK, Int8, Token};
use super::decode::unpack;
use super::{SCALES, bias_bytes, by_codes, code_factors, decode_scales};
use crate::cpu::simd::codes::MOST_CODES;
use crate::cpu::simd::{Kernel, Simd, load, store};

/// Columns of a tile.
const COLS: usize = 512;
/// Most groups of a tile's row.
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

/// Codes of some columns of as many rows as there are lanes, and their scales.
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
        let weight = self.weight;
        by_codes!(weight, tiles::<S>(s, &mut self));
    }
}

#[inline(always)]
fn tiles<S: Simd, const BITS: usize, const TABLE: bool>(s: S, job: &mut Prefill<'_, '_>) {
    let (cols, group) = (job.weight.cols(), job.weight.format().group());
    let mut tile = Tile {
        codes: [0; COLS * LANES],
        scales: [0.0; GROUPS * LANES],
        biases: [0.0; GROUPS * LANES],
    };
    for row in (0..job.rows).step_by(S::LANES) {
        let rows = S::LANES.min(job.rows - row);
        for start in (0..cols).step_by(COLS) {
            let span = Span { start, len: COLS.min(cols - start), group };
            fill::<S, BITS, TABLE>(s, &job.weight, job.first_row + row, rows, span, &mut tile);
            let mut token = 0;
            if S::WIDE {
                while token + 8 <= job.x.tokens {
                    tokens::<S, BITS, 8>(s, job, &tile, span, (row, rows), token);
                    token += 8;
                }
            }
            while token + 4 <= job.x.tokens {
                tokens::<S, BITS, 4>(s, job, &tile, span, (row, rows), token);
                token += 4;
            }
            while token < job.x.tokens {
                tokens::<S, BITS, 1>(s, job, &tile, span, (row, rows), token);
                token += 1;
            }
        }
    }
}

/// Unpacks `rows` rows from `first` on; what further lanes hold is of no matter.
#[inline(always)]
fn fill<S: Simd, const BITS: usize, const TABLE: bool>(
    s: S,
    weight: &Blocks<'_>,
    first: usize,
    rows: usize,
    span: Span,
    tile: &mut Tile,
) {
    let bytes = S::COUNT * BITS / 8;
    let (row_groups, count) = (weight.cols() / span.group, span.len / span.group);
    let (kind, bias_bytes) = (weight.scale_type(), bias_bytes(weight, TABLE));
    let (code_factor, bias_factor) = code_factors(TABLE);
    let (mut scales, mut biases) = ([0.0f32; SCALES], [0.0f32; SCALES]);
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
        let groups = ((first + r) * row_groups + span.start / span.group, count);
        decode_scales(s, kind, weight.scales(), groups, code_factor, &mut scales);
        decode_scales(s, kind, bias_bytes, groups, bias_factor, &mut biases);
        for g in 0..count {
            tile.scales[g * S::LANES + r] = scales[g];
            tile.biases[g * S::LANES + r] = biases[g];
        }
    }
}

#[inline(always)]
fn tokens<S: Simd, const BITS: usize, const M: usize>(
    s: S,
    job: &mut Prefill<'_, '_>,
    tile: &Tile,
    span: Span,
    (row, rows): (usize, usize),
    token: usize,
) {
    let x: [Token<'_>; M] = std::array::from_fn(|m| job.x.token(token + m));
    let fours: [&[i32]; M] =
        std::array::from_fn(|m| &x[m].fours()[span.start / 4..][..span.len / 4]);
    let x_scales: [&[f32]; M] = std::array::from_fn(|m| &x[m].scales()[span.start / BLOCK..]);
    let vector = |values: &[f32], g: usize| load(s, &values[g * S::LANES..][..S::LANES]);
    let mut sums = [s.zero(); M];
    // A part is as much as shares both scales, the weights' and the activations'.
    let part = BLOCK.min(span.group);
    let (part_shift, group_shift) = (part.trailing_zeros(), span.group.trailing_zeros());
    for p in 0..span.len >> part_shift {
        let mut dots = [s.no_sums(); M];
        for four in p * part / 4..(p + 1) * part / 4 {
            let codes = s.load_codes(&tile.codes[four * S::COUNT..][..S::COUNT]);
            for m in 0..M {
                dots[m] = if BITS <= 6 {
                    s.dot_splat::<true>(dots[m], codes, fours[m][four])
                } else {
                    s.dot_splat::<false>(dots[m], codes, fours[m][four])
                };
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
    let factor = s.splat(job.weight.factor());
    for m in 0..M {
        let out = &mut job.out[(token + m) * job.out_stride + row..][..rows];
        let sum = s.mul(factor, sums[m]);
        let sum = if span.start == 0 { sum } else { s.add(load(s, out), sum) };
        store(s, sum, out);
    }
}
