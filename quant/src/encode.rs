//! [`Encoder`]: encodes rows of weights as codes, scales and biases, rounding like MLX.
//!
//! [`Encoder::encode_row`] agrees bit for bit with `mlx.core.quantize` of MLX 0.32 on the CPU;
//! `tests/reference/mlx_vectors.py` makes the test vectors. MLX computes the following, with `n =
//! 2^bits - 1` and every step rounded to f32:
//!
//! **Affine.** Of a group's smallest and largest weight the one with the larger magnitude is the
//! *edge* (the largest if they are equal). `s = max((largest - smallest) / n, 1e-7)`, negative
//! unless the edge is the smallest. `q0 = round(edge / s)`. Unless it is zero, `s = edge / q0` and
//! the bias is the edge, so zero is exactly the code `-q0` and the edge exactly the code 0; if it
//! is zero, so is the bias. `q = round((w - bias) / s)`, clamped to `0..=n`. Ties go to the even
//! code. Scale and bias are rounded to the input's type *after* the codes are chosen. Since `s`
//! changes by a factor of up to 1.5, the error at the far edge can exceed half a step.
//!
//! **MXFP4 and MXFP8.** The scale is the smallest power of two that is at least `max|w| / m`, where
//! `m` is the largest code value, 6 or 448, so nothing saturates (versions of MLX before 0.32.4
//! took the nearest power of two). Both quotients are rounded to the input's type. A group of zeros
//! has the scale 1. E2M1 ties go to the smaller magnitude and no code is -0; E4M3 ties go to the
//! even code, and -0 is kept.
//!
//! **NVFP4.** The scale is `max|w| / 6` (in the input's type), rounded to E4M3; `w / scale` is in
//! the input's type. With a global scale `g`, the first is multiplied by `e = 2688 / g` before it
//! is rounded, and the second after.
//!
//! This differs from MLX in three cases in which MLX's result is useless: non-finite weights and
//! overflowing scales are errors, and MX groups so small that MLX's exponent wraps around get the
//! smallest scale.

use std::fmt;

use crate::{DType, Format, FormatError, Mode, e2m1, e4m3, e8m0, to_e2m1, to_e4m3};

/// Size of the largest group.
pub(crate) const MAX_GROUP: usize = 128;

/// NVFP4's largest scale times its largest code: the range that a global scale refers to.
pub(crate) const NVFP4_RANGE: f32 = 448.0 * 6.0;

/// A row of a quantized matrix to write.
#[derive(Debug)]
pub struct RowMut<'a> {
    /// [`Format::row_bytes`] bytes.
    pub codes: &'a mut [u8],
    /// [`Format::groups`] scales of [`Format::scale_type`].
    pub scales: &'a mut [u8],
    /// Biases, as many as scales and of the same type; empty unless affine.
    pub biases: &'a mut [u8],
}

/// A row can't be encoded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The row is not whole groups.
    Format(FormatError),
    /// A part has a different length than format and row require.
    Length {
        /// `codes`, `scales`, `biases`, `importance` or `weights`.
        part: &'static str,
        /// Length that was given, in bytes (in elements for the last two).
        found: usize,
        /// Required length.
        needed: usize,
    },
    /// Out of memory.
    Memory {
        /// Requested bytes; `None` if the number overflows.
        bytes: Option<usize>,
    },
    /// A weight is NaN or infinite.
    NotFinite {
        /// Column in the row.
        column: usize,
        /// The weight.
        value: f32,
    },
    /// An importance is NaN, infinite or negative.
    Importance {
        /// Column in the row.
        column: usize,
        /// The importance.
        value: f32,
    },
    /// The scale of a group's weights overflows its type.
    Overflow {
        /// First column of the group.
        column: usize,
        /// The scale that overflows.
        scale: f32,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(error) => error.fmt(f),
            Self::Length { part, found, needed } => {
                write!(f, "{part} of {found} where {needed} are needed")
            }
            Self::Memory { bytes: Some(bytes) } => {
                write!(f, "can't allocate {bytes} bytes for quantized weights")
            }
            Self::Memory { bytes: None } => {
                f.write_str("a quantized matrix of that shape has too many bytes")
            }
            Self::NotFinite { column, value } => {
                write!(
                    f,
                    "the weight in column {column} is {value}: only finite weights can be quantized"
                )
            }
            Self::Importance { column, value } => write!(
                f,
                "the importance of column {column} is {value}: it must be finite and not negative"
            ),
            Self::Overflow { column, scale } => write!(
                f,
                "the weights from column {column} on are so large that their scale overflows \
                 ({scale}): leave this matrix as it is"
            ),
        }
    }
}

impl std::error::Error for EncodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Format(error) => Some(error),
            _ => None,
        }
    }
}

impl From<FormatError> for EncodeError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

/// Encodes rows into one format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Encoder {
    pub(crate) format: Format,
    pub(crate) float: DType,
    pub(crate) global_scale: Option<f32>,
}

impl Encoder {
    /// Creates an encoder into `format`. `float` is the type that the weights had before they were
    /// widened to f32, and the type of affine scales and biases: MLX rounds intermediate results to
    /// it.
    pub fn new(format: Format, float: DType) -> Self {
        Self { format, float, global_scale: None }
    }

    /// Sets NVFP4's global scale, the largest magnitude in the matrix: `w = code * scale * global /
    /// 2688`. Ignored by other formats, and unless it is positive and finite.
    pub fn with_global_scale(self, global: f32) -> Self {
        let usable = self.format.mode() == Mode::NvFp4 && global > 0.0 && global.is_finite();
        Self { global_scale: usable.then_some(global), ..self }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The type of the weights, and of affine scales and biases.
    pub fn float(&self) -> DType {
        self.float
    }

    /// Factor on the decoded weights ([`crate::Blocks::with_factor`]); 1 without a global scale.
    pub fn factor(&self) -> f32 {
        self.global_scale.map_or(1.0, |global| global / NVFP4_RANGE)
    }

    /// Encodes one row like `mlx.core.quantize`.
    ///
    /// # Errors
    /// If the row is not whole groups, a part of `out` has a different length than the format
    /// requires, a weight is not finite, or a scale overflows.
    pub fn encode_row(&self, weights: &[f32], out: &mut RowMut<'_>) -> Result<(), EncodeError> {
        self.each_group(
            weights,
            out,
            |encoder, _, weights, codes| Ok(encoder.plain(weights, codes)),
        )
    }

    /// Splits a row into groups and stores for each the result of `choose(self, first column of the
    /// group, weights, codes)`.
    pub(crate) fn each_group(
        &self,
        weights: &[f32],
        out: &mut RowMut<'_>,
        mut choose: impl FnMut(&Self, usize, &[f32], &mut [u8]) -> Result<Scaling, EncodeError>,
    ) -> Result<(), EncodeError> {
        self.check(weights.len(), out)?;
        let (group, bits) = (self.format.group(), self.format.bits());
        let group_bytes = group * bits / 8;
        let mut buffer = [0u8; MAX_GROUP];
        let groups = weights.chunks_exact(group).zip(out.codes.chunks_exact_mut(group_bytes));
        for (index, (weights, packed)) in groups.enumerate() {
            let column = index * group;
            check_finite(weights, column)?;
            let codes = &mut buffer[..group];
            let scaling = choose(self, column, weights, codes)?;
            self.store(index, scaling, out.scales, out.biases)?;
            pack(codes, bits, packed);
        }
        Ok(())
    }

    /// Fails unless the parts of `out` match a row of `cols` weights.
    pub(crate) fn check(&self, cols: usize, out: &RowMut<'_>) -> Result<(), EncodeError> {
        self.format.check_cols(cols)?;
        let scale_bytes = self.format.groups(cols) * self.format.scale_type(self.float).size();
        let bias_bytes = if self.format.mode() == Mode::Affine { scale_bytes } else { 0 };
        for (part, found, needed) in [
            ("codes", out.codes.len(), self.format.row_bytes(cols)),
            ("scales", out.scales.len(), scale_bytes),
            ("biases", out.biases.len(), bias_bytes),
        ] {
            if found != needed {
                return Err(EncodeError::Length { part, found, needed });
            }
        }
        Ok(())
    }

    /// Stores the scale (and bias) of group `index`.
    pub(crate) fn store(
        &self,
        index: usize,
        scaling: Scaling,
        scales: &mut [u8],
        biases: &mut [u8],
    ) -> Result<(), EncodeError> {
        match scaling {
            Scaling::Code(code) => {
                if let Some(scale) = scales.get_mut(index) {
                    *scale = code;
                }
            }
            Scaling::Affine { scale, bias } => {
                for (value, bytes) in [(scale, scales), (bias, biases)] {
                    if !self.float.round(value).is_finite() {
                        let column = index * self.format.group();
                        return Err(EncodeError::Overflow { column, scale: value });
                    }
                    let size = self.float.size();
                    if let Some(bytes) = bytes.get_mut(index * size..(index + 1) * size) {
                        self.float.write(value, bytes);
                    }
                }
            }
        }
        Ok(())
    }

    /// MLX's choice for a group of finite weights.
    pub(crate) fn plain(&self, weights: &[f32], codes: &mut [u8]) -> Scaling {
        let float = self.float;
        match self.format.mode() {
            Mode::Affine => affine(weights, codes, self.format.bits()),
            Mode::MxFp4 => {
                let code = mx_scale(float, largest(weights), 6.0);
                let scale = e8m0(code);
                put(codes, weights, |w| to_e2m1(float.round(w / scale)));
                Scaling::Code(code)
            }
            Mode::MxFp8 => {
                let code = mx_scale(float, largest(weights), 448.0);
                let scale = e8m0(code);
                put(codes, weights, |w| to_e4m3(float.round(w / scale)));
                Scaling::Code(code)
            }
            Mode::NvFp4 => {
                let up = self.global_scale.map_or(1.0, |global| NVFP4_RANGE / global);
                let code = to_e4m3(float.round(largest(weights) / 6.0) * up);
                let scale = e4m3(code);
                put(codes, weights, |w| nearest_e2m1(float.round(w / scale) * up));
                Scaling::Code(code)
            }
        }
    }
}

/// The scale (and bias) of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// The code of an E8M0 or E4M3 scale.
    Code(u8),
    /// Not yet rounded to the type of scales and biases.
    Affine { scale: f32, bias: f32 },
}

pub(crate) fn check_finite(weights: &[f32], column: usize) -> Result<(), EncodeError> {
    // Without an early exit the loop is vectorised; the offending weight is searched for only once.
    if weights.iter().fold(true, |finite, w| finite & w.is_finite()) {
        return Ok(());
    }
    let at = weights.iter().position(|w| !w.is_finite()).unwrap_or_default();
    let value = weights.get(at).copied().unwrap_or(f32::NAN);
    Err(EncodeError::NotFinite { column: column + at, value })
}

fn put(codes: &mut [u8], weights: &[f32], code: impl Fn(f32) -> u8) {
    codes.iter_mut().zip(weights).for_each(|(c, &w)| *c = code(w));
}

/// Returns the largest magnitude.
pub(crate) fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |most: f32, w| most.max(w.abs()))
}

/// Returns the smallest and largest weight.
pub(crate) fn range(weights: &[f32]) -> (f32, f32) {
    let start = (f32::INFINITY, f32::NEG_INFINITY);
    weights.iter().fold(start, |(least, most), &w| (least.min(w), most.max(w)))
}

/// The code nearest to `value`, ties to even, within `0..=max`.
#[inline]
pub(crate) fn round_code(value: f32, max: f32) -> u8 {
    // Between 2^23 and 2^24 the spacing of f32 is 1, so the sum is rounded to an integer, held in
    // its low bits. Clamping before rounding equals clamping after it, since both bounds are
    // integers.
    (value.max(0.0).min(max) + 8_388_608.0).to_bits() as u8
}

/// Codes of `weights` for an exact, unrounded scale and bias.
pub(crate) fn affine_codes(weights: &[f32], codes: &mut [u8], bits: usize, scale: f32, bias: f32) {
    let max = ((1u32 << bits) - 1) as f32;
    put(codes, weights, |w| round_code((w - bias) / scale, max));
}

fn affine(weights: &[f32], codes: &mut [u8], bits: usize) -> Scaling {
    let max = ((1u32 << bits) - 1) as f32;
    let (least, most) = range(weights);
    let from_least = least.abs() > most.abs();
    let step = ((most - least) / max).max(1e-7);
    let mut scale = if from_least { step } else { -step };
    let edge = if from_least { least } else { most };
    let edge_code = (edge / scale).round_ties_even();
    let mut bias = 0.0;
    if edge_code != 0.0 {
        scale = edge / edge_code;
        bias = edge;
    }
    affine_codes(weights, codes, bits, scale, bias);
    Scaling::Affine { scale, bias }
}

/// The E8M0 code that MLX chooses for a group with the largest magnitude `largest` and the largest
/// code value `reach`.
pub(crate) fn mx_scale(float: DType, largest: f32, reach: f32) -> u8 {
    let quotient = float.round(largest / reach);
    if quotient == 0.0 {
        return 127;
    }
    let bits = quotient.to_bits();
    match bits >> 23 {
        // Subnormal: at most 2^-127, or between that and 2^-126.
        0 => u8::from(bits > 1 << 22),
        // At most 252, since the quotient is at most a sixth of the largest f32.
        exponent => (exponent + u32::from(bits & 0x7f_ffff != 0)).min(254) as u8,
    }
}

/// The E2M1 code with the least distance, computed in f32; the first one on a tie.
fn nearest_e2m1(value: f32) -> u8 {
    // A scale of zero gives infinities and NaN, which are equally far from all codes.
    if !value.is_finite() {
        return 0;
    }
    // Far beyond the largest code, different distances round to the same value.
    if value.abs() < 65_536.0 {
        return to_e2m1(value);
    }
    let distance = |code: u8| (value - e2m1(code)).abs();
    (1..16).fold(0, |best, code| if distance(code) < distance(best) { code } else { best })
}

/// Packs codes of `bits` bits into a stream from the lowest bit. Eight codes are `bits` bytes.
pub(crate) fn pack(codes: &[u8], bits: usize, packed: &mut [u8]) {
    match bits {
        8 => packed.iter_mut().zip(codes).for_each(|(p, c)| *p = *c),
        4 => {
            let (pairs, _) = codes.as_chunks::<2>();
            packed.iter_mut().zip(pairs).for_each(|(p, [low, high])| *p = low & 15 | high << 4);
        }
        _ => {
            let (eights, _) = codes.as_chunks::<8>();
            for (packed, codes) in packed.chunks_exact_mut(bits).zip(eights) {
                let word = (0..8).fold(0u64, |word, i| word | u64::from(codes[i]) << (i * bits));
                packed.copy_from_slice(&word.to_le_bytes()[..bits]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blocks;

    #[test]
    fn invalid_rows_are_refused() {
        let encoder = Encoder::new(Format::affine(4, 32).unwrap(), DType::F16);
        let (mut codes, mut scales, mut biases) = ([0; 32], [0; 4], [0; 4]);
        let mut encode = |weights: &[f32], codes: &mut [u8]| {
            let out = &mut RowMut { codes, scales: &mut scales, biases: &mut biases };
            encoder.encode_row(weights, out)
        };
        let mut weights = [0.5; 64];
        assert_eq!(encode(&weights, &mut codes), Ok(()));
        assert!(matches!(encode(&weights[1..], &mut codes), Err(EncodeError::Format(_))));
        let short = encode(&weights, &mut codes[1..]);
        assert_eq!(short, Err(EncodeError::Length { part: "codes", found: 31, needed: 32 }));
        weights[33] = 3e6;
        let overflow = encode(&weights, &mut codes);
        assert!(matches!(overflow, Err(EncodeError::Overflow { column: 32, .. })), "{overflow:?}");
        weights[40] = f32::INFINITY;
        let infinite = EncodeError::NotFinite { column: 40, value: f32::INFINITY };
        assert_eq!(encode(&weights, &mut codes), Err(infinite));
    }

    #[test]
    fn affine_rows_decode_within_a_step_and_a_half() {
        let weights: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 40.0) / 64.0).collect();
        for bits in Format::AFFINE_BITS {
            let format = Format::affine(bits, 64).unwrap();
            let encoder = Encoder::new(format, DType::F32);
            let mut codes = vec![0; format.row_bytes(256)];
            let (mut scales, mut biases) = ([0; 16], [0; 16]);
            let out = &mut RowMut { codes: &mut codes, scales: &mut scales, biases: &mut biases };
            encoder.encode_row(&weights, out).unwrap();
            let blocks =
                Blocks::new(format, DType::F32, [1, 256], &codes, &scales, &biases).unwrap();
            let mut decoded = [0.0; 256];
            blocks.decode_row(0, &mut decoded).unwrap();
            for (w, d) in weights.iter().zip(decoded) {
                let step = 100.0 / 64.0 / ((1 << bits) - 1) as f32;
                assert!((w - d).abs() <= 1.5 * step, "{bits} bits: {w} became {d}");
            }
        }
    }
}
