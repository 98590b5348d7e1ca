//! Products of quantized weight rows with activations, computed on the packed codes.
//!
//! With `w = s q + b` in each group of a row, and activations `x ~ a x'` as in [`Int8`], with
//! integer `x'` and a scale for every 32 columns,
//!
//! ```text
//! w . x = sum over groups of s (sum of a (q . x')) + b (sum of a x')
//! ```
//!
//! where `q . x'` is exact in integers. The codes of four-bit float formats are looked up as
//! integers `2 e2m1 + 12`, which makes them affine too, with scale `s / 2` and bias `-6 s`. MXFP8's
//! codes are not integers: they are decoded, as all codes are if activations must stay exact.
//!
//! - [`decode`]: few tokens. Codes are unpacked in registers, once.
//! - [`prefill`]: many tokens. A tile of rows is unpacked into a buffer that stays in the
//!   first-level cache, so that vectors hold the same columns of many rows.
//! - [`exact`]: f32 activations.

pub(crate) mod activations;
pub(crate) mod decode;
pub(crate) mod exact;
pub(crate) mod prefill;
#[cfg(test)]
mod tests;

use kinglet_quant::{Blocks, DType, Mode, ScaleType, e4m3, e8m0};

use crate::backend::cpu::simd::codes::padded;
use crate::backend::cpu::simd::{Kernel, Simd};
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

/// Most scales decoded at a time, plus a few that vectors may read past the end.
const SCALES: usize = 64 + 16;

/// Instantiates a kernel for the bits of the codes and for whether they are E2M1.
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

/// Whether [`decode`] and [`prefill`] support the codes: all but MXFP8's.
pub(crate) fn has_whole_codes(blocks: &Blocks<'_>) -> bool {
    blocks.format().mode() != Mode::MxFp8
}

/// Scales (or biases) `index..index + LANES` of `bytes`, which are those of a whole matrix. Values
/// past the row's end are decoded but unused; past the matrix's end they are zero.
#[inline(always)]
fn scale_vector<S: Simd>(s: S, scale_type: ScaleType, bytes: &[u8], index: usize) -> S::F {
    let bytes = &bytes[index * scale_type.size()..];
    match scale_type {
        ScaleType::Float(DType::F32) => match S::bytes4(bytes).0.first() {
            Some(block) => s.load_f32(block),
            None => s.load_f32(&S::bytes4(&padded::<64>(bytes)).0[0]),
        },
        ScaleType::Float(DType::F16) => match S::bytes2(bytes).0.first() {
            Some(block) => s.load_f16(block),
            None => s.load_f16(&S::bytes2(&padded::<64>(bytes)).0[0]),
        },
        ScaleType::Float(DType::BF16) => match S::bytes2(bytes).0.first() {
            Some(block) => s.load_bf16(block),
            None => s.load_bf16(&S::bytes2(&padded::<64>(bytes)).0[0]),
        },
        ScaleType::E8M0 => {
            let codes: [u8; 16] = padded(bytes);
            s.load(&S::blocks(&codes.map(e8m0)).0[0])
        }
        ScaleType::E4M3 => {
            let codes: [u8; 16] = padded(bytes);
            s.load(&S::blocks(&codes.map(|code| E4M3_VALUES[usize::from(code)])).0[0])
        }
    }
}

/// Decodes scales (or biases) of `R` rows, multiplied by `factor`, and some more after them.
struct DecodeScales<'a, 'o, const R: usize> {
    scale_type: ScaleType,
    bytes: &'a [u8],
    /// The first element of the first row, the stride between rows, and the number per row.
    first: usize,
    stride: usize,
    count: usize,
    factor: f32,
    out: &'o mut [[f32; SCALES]; R],
}

impl<const R: usize> Kernel for DecodeScales<'_, '_, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let factor = s.splat(self.factor);
        for (r, out) in self.out.iter_mut().enumerate() {
            let first = self.first + r * self.stride;
            let blocks = S::blocks_mut(out).0;
            for (v, block) in blocks.iter_mut().enumerate().take(self.count.div_ceil(S::LANES)) {
                let scales = scale_vector(s, self.scale_type, self.bytes, first + v * S::LANES);
                s.store(s.mul(factor, scales), block);
            }
        }
    }
}

/// For each of `R` rows and `M` tokens, the dot product of the row's biases with the token's sums.
struct BiasDots<'a, const R: usize, const M: usize> {
    scale_type: ScaleType,
    bytes: &'a [u8],
    /// The first element of the first row. A row has one per group.
    first: usize,
    groups: usize,
    /// One per group, followed by zeros to the end of a vector.
    x: [&'a [f32]; M],
}

impl<const R: usize, const M: usize> Kernel for BiasDots<'_, R, M> {
    type Output = [[f32; M]; R];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [[f32; M]; R] {
        let x: [&[S::Block]; M] = std::array::from_fn(|m| S::blocks(self.x[m]).0);
        let mut dots = [[0.0; M]; R];
        for (r, dots) in dots.iter_mut().enumerate() {
            let first = self.first + r * self.groups;
            let mut sums = [s.zero(); M];
            for v in 0..self.groups.div_ceil(S::LANES) {
                let at = first + v * S::LANES;
                let biases = scale_vector(s, self.scale_type, self.bytes, at);
                for m in 0..M {
                    sums[m] = s.fma(biases, s.load(&x[m][v]), sums[m]);
                }
            }
            *dots = sums.map(|sum| s.sum(sum));
        }
        dots
    }
}

/// The factor of the codes that kernels see, and the share of it to add for the groups' biases.
const fn code_factors(e2m1: bool) -> (f32, f32) {
    if e2m1 { (0.5, -6.0) } else { (1.0, 1.0) }
}

/// The bytes of the biases. Those of E2M1 follow from the scales.
#[inline(always)]
fn bias_bytes<'a>(weight: &Blocks<'a>, e2m1: bool) -> &'a [u8] {
    if e2m1 { weight.scales() } else { weight.biases() }
}
