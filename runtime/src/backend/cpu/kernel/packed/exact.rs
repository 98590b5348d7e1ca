//! Products with exact activations: rows are decoded to f32 piece by piece, into a buffer that
//! stays in the first-level cache.

use kinglet_quant::{Blocks, Mode};

use super::super::dot::Vectors;
use super::decode::unpack;
use super::{DecodeScales, SCALES};
use crate::backend::cpu::simd::codes::MOST_CODES;
use crate::backend::cpu::simd::{Kernel, Simd};

/// Columns decoded at a time: at most 64 groups.
const COLS: usize = 1024;
/// Rows decoded at a time.
const ROWS: usize = 4;

/// `out[t * out_stride + r] = W[first_row + r] . x[t]` for `r < rows` and all tokens.
pub(crate) struct Exact<'a, 'o> {
    pub weight: Blocks<'a>,
    pub first_row: usize,
    pub rows: usize,
    pub x: Vectors<'a>,
    pub out: &'o mut [f32],
    pub out_stride: usize,
}

impl Kernel for Exact<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let cols = self.weight.cols();
        let mut decoded = [[0.0f32; COLS]; ROWS];
        for row in (0..self.rows).step_by(ROWS) {
            let rows = ROWS.min(self.rows - row);
            for start in (0..cols).step_by(COLS) {
                let len = COLS.min(cols - start);
                for (r, decoded) in decoded[..rows].iter_mut().enumerate() {
                    let row = self.first_row + row + r;
                    decode(s, &self.weight, row, start, &mut decoded[..len]);
                }
                let mut token = 0;
                while token + 4 <= self.x.tokens {
                    tile::<S, 4>(s, &mut self, &decoded, (row, rows), (start, len), token);
                    token += 4;
                }
                while token < self.x.tokens {
                    tile::<S, 1>(s, &mut self, &decoded, (row, rows), (start, len), token);
                    token += 1;
                }
            }
        }
    }
}

#[inline(always)]
fn tile<S: Simd, const M: usize>(
    s: S,
    job: &mut Exact<'_, '_>,
    decoded: &[[f32; COLS]; ROWS],
    (row, rows): (usize, usize),
    (start, len): (usize, usize),
    token: usize,
) {
    let x: [&[f32]; M] =
        std::array::from_fn(|m| &job.x.x[(token + m) * job.x.stride + start..][..len]);
    for (r, decoded) in decoded[..rows].iter().enumerate() {
        let mut sums = [s.zero(); M];
        let (blocks, tail) = S::blocks(&decoded[..len]);
        for (v, block) in blocks.iter().enumerate() {
            let w = s.load(block);
            for m in 0..M {
                sums[m] = s.fma(w, s.load(&S::blocks(x[m]).0[v]), sums[m]);
            }
        }
        // Groups are multiples of 16, and so are rows.
        debug_assert!(tail.is_empty());
        for m in 0..M {
            let out = &mut job.out[(token + m) * job.out_stride + row + r];
            let sum = s.sum(sums[m]);
            *out = if start == 0 { sum } else { *out + sum };
        }
    }
}

/// Decodes columns `start..start + out.len()` of row `row`.
#[inline(always)]
fn decode<S: Simd>(s: S, weight: &Blocks<'_>, row: usize, start: usize, out: &mut [f32]) {
    let format = weight.format();
    let count = out.len() / format.group();
    let first = row * format.groups(weight.cols()) + start / format.group();
    let (scale_type, factor) = (weight.scale_type(), weight.factor());
    let scaling = |bytes, out: &mut [[f32; SCALES]; 1]| {
        s.apart(DecodeScales { scale_type, bytes, first, stride: 0, count, factor, out });
    };
    let (mut scales, mut biases) = ([[0.0f32; SCALES]], [[0.0f32; SCALES]]);
    let packed = &weight.row_codes(row)[start / 8 * format.bits()..];
    scaling(weight.scales(), &mut scales);
    match format.mode() {
        Mode::Affine => {
            scaling(weight.biases(), &mut biases);
            match format.bits() {
                2 => codes::<S, 2, false>(s, packed, out),
                3 => codes::<S, 3, false>(s, packed, out),
                4 => codes::<S, 4, false>(s, packed, out),
                5 => codes::<S, 5, false>(s, packed, out),
                6 => codes::<S, 6, false>(s, packed, out),
                _ => codes::<S, 8, false>(s, packed, out),
            }
        }
        Mode::MxFp4 | Mode::NvFp4 => {
            codes::<S, 4, true>(s, packed, out);
            // Converts `2 e2m1 + 12` back to e2m1, exactly.
            out.iter_mut().for_each(|x| *x = (*x - 12.0) * 0.5);
        }
        Mode::MxFp8 => halves(s, packed, out),
    }
    let scaled = out.chunks_exact_mut(format.group()).zip(scales[0].iter().zip(&biases[0]));
    for (out, (&scale, &bias)) in scaled {
        out.iter_mut().for_each(|x| *x = scale * *x + bias);
    }
}

/// `out[i] = code i`.
#[inline(always)]
fn codes<S: Simd, const BITS: usize, const TABLE: bool>(s: S, packed: &[u8], out: &mut [f32]) {
    let mut bytes = [0u8; MOST_CODES];
    let packed = packed.chunks(S::COUNT * BITS / 8);
    for (packed, out) in packed.zip(out.chunks_mut(S::COUNT)) {
        s.store_codes(unpack::<S, BITS, TABLE>(s, packed), &mut bytes);
        out.iter_mut().zip(&bytes).for_each(|(out, &code)| *out = f32::from(code));
    }
}

/// `out[i] = e4m3(code i)`, by way of binary16, whose exponents reach 8 lower: the bits shifted
/// into place and multiplied by 2^8 give the value, subnormals included. NaN is not preserved;
/// valid files have none.
#[inline(always)]
fn halves<S: Simd>(s: S, packed: &[u8], out: &mut [f32]) {
    let mut bytes = [0u8; 2 * MOST_CODES / 4];
    for (codes, out) in packed.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
        for (pair, &code) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
            let code = u16::from(code);
            *pair = ((code & 0x80) << 8 | (code & 0x7f) << 7).to_le_bytes();
        }
        if let (Some(halves), Some(out)) =
            (S::bytes2(&bytes).0.first(), S::blocks_mut(out).0.first_mut())
        {
            s.store(s.mul(s.splat(256.0), s.load_f16(halves)), out);
        }
    }
}
