//! Products of quantized weight rows with activations, on the packed codes.
//!
//! With `w = s q + b` in each group of a row, and activations `x` as [`Int8`] has them, `x ~ a x'` with `x'` whole in every 32 columns,
//!
//! ```text
//! w . x = sum over groups of s (sum of a (q . x')) + b (sum of a x')
//! ```
//!
//! where `q . x'` is exact in integers. The codes of the four-bit float formats are looked up as whole numbers `2 e2m1 + 12`, which makes
//! them affine too: scale `s / 2`, bias `-6 s`. MXFP8's codes are no whole numbers: they are decoded, as all are where
//! activations must stay exact.
//!
//! - [`decode`]: few tokens. Codes are unpacked in registers, once.
//! - [`prefill`]: many tokens. A tile of rows is unpacked into a buffer that stays in the first-level cache, so that
//!   vectors hold the same columns of many rows.
//! - [`exact`]: `f32` activations.

pub(crate) mod activations;
pub(crate) mod decode;
pub(crate) mod exact;
pub(crate) mod prefill;
#[cfg(test)]
mod tests;

use half::f16;
use kinglet_quant::{Blocks, DType, Mode, ScaleType, e4m3, e8m0};

use crate::cpu::simd::Simd;
pub(crate) use activations::{Int8, Layout};

/// `2 e2m1(code) + 12` for each code.
const E2M1: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (2.0 * kinglet_quant::e2m1(code as u8) + 12.0) as u8;
        code += 1;
    }
    table
};

const E4M3_VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = e4m3(code as u8);
        code += 1;
    }
    values
};

/// Most scales that are decoded at a time, and a few that vectors may read behind them.
const SCALES: usize = 64 + 16;

/// What a kernel is compiled for: the bits of the codes, and whether they are E2M1.
macro_rules! by_codes {
    ($blocks:expr, $run:ident::<$s:ty>($($argument:expr),*)) => {
        match ($blocks.format().mode(), $blocks.format().bits()) {
            (kinglet_quant::Mode::MxFp4 | kinglet_quant::Mode::NvFp4, _) => {
                $run::<$s, 4, true>($($argument),*)
            }
            (_, 2) => $run::<$s, 2, false>($($argument),*),
            (_, 3) => $run::<$s, 3, false>($($argument),*),
            (_, 4) => $run::<$s, 4, false>($($argument),*),
            (_, 5) => $run::<$s, 5, false>($($argument),*),
            (_, 6) => $run::<$s, 6, false>($($argument),*),
            _ => $run::<$s, 8, false>($($argument),*),
        }
    };
}
use by_codes;

/// Whether [`decode`] and [`prefill`] know the codes: all but MXFP8's.
pub(crate) fn has_whole_codes(blocks: &Blocks<'_>) -> bool {
    blocks.format().mode() != Mode::MxFp8
}

/// Scales (or biases) `first .. first + out.len()` of a row, whose bytes are `bytes`, times `factor`.
#[inline(always)]
fn decode_scales<S: Simd>(
    s: S,
    scale_type: ScaleType,
    bytes: &[u8],
    first: usize,
    factor: f32,
    out: &mut [f32],
) {
    let size = scale_type.size();
    let bytes = &bytes[first * size..][..out.len() * size];
    match scale_type {
        ScaleType::Float(dtype) => {
            let whole = out.len() / S::LANES;
            let (blocks, rest) = S::blocks_mut(out);
            let factors = s.splat(factor);
            match dtype {
                DType::F32 => {
                    for (out, bytes) in blocks.iter_mut().zip(S::bytes4(bytes).0) {
                        s.store(s.mul(factors, s.load_f32(bytes)), out);
                    }
                }
                DType::F16 => {
                    for (out, bytes) in blocks.iter_mut().zip(S::bytes2(bytes).0) {
                        s.store(s.mul(factors, s.load_f16(bytes)), out);
                    }
                }
                DType::BF16 => {
                    for (out, bytes) in blocks.iter_mut().zip(S::bytes2(bytes).0) {
                        s.store(s.mul(factors, s.load_bf16(bytes)), out);
                    }
                }
            }
            let bytes = &bytes[whole * S::LANES * size..];
            for (out, bytes) in rest.iter_mut().zip(bytes.chunks_exact(size)) {
                *out = factor
                    * match (dtype, bytes) {
                        (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
                        (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
                        (_, &[a, b]) => f32::from_bits(u32::from(u16::from_le_bytes([a, b])) << 16),
                        _ => f32::NAN,
                    };
            }
        }
        ScaleType::E8M0 => {
            out.iter_mut().zip(bytes).for_each(|(out, &code)| *out = factor * e8m0(code));
        }
        ScaleType::E4M3 => {
            let value = |code: u8| E4M3_VALUES[usize::from(code)];
            out.iter_mut().zip(bytes).for_each(|(out, &code)| *out = factor * value(code));
        }
    }
}

/// Scales and biases of groups `first .. first + count` of row `row`, as `s q + b` needs them for the codes that kernels see.
#[inline(always)]
fn scales_and_biases<S: Simd, const E2M1: bool>(
    s: S,
    blocks: &Blocks<'_>,
    row: usize,
    (first, count): (usize, usize),
    scales: &mut [f32; SCALES],
    biases: &mut [f32; SCALES],
) {
    let (kind, bytes) = (blocks.scale_type(), blocks.row_scales(row));
    if E2M1 {
        decode_scales(s, kind, bytes, first, 0.5, &mut scales[..count]);
        for (bias, scale) in biases[..count].iter_mut().zip(&scales[..count]) {
            *bias = -12.0 * scale;
        }
    } else {
        decode_scales(s, kind, bytes, first, 1.0, &mut scales[..count]);
        decode_scales(s, kind, blocks.row_biases(row), first, 1.0, &mut biases[..count]);
    }
}
