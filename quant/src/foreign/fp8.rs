//! FP8 checkpoints: E4M3 codes with a scale per tensor, per output or per block.
//!
//! DeepSeek-style checkpoints have `weight_scale_inv`, f32, for blocks of 128 by 128;
//! compressed-tensors has `weight_scale` for the tensor, for each output, or for blocks. Despite
//! the name of the first, both multiply: `w = e4m3(code) * scale`.

use super::{Converted, ForeignError, check_length, encode_anew, finite_scales};
use crate::{DType, Format, Quantized, e4m3, e8m0};

/// A matrix of E4M3 codes.
#[derive(Clone, Copy, Debug)]
pub struct Fp8<'a> {
    /// Outputs, inputs.
    pub shape: [usize; 2],
    /// `[outputs, inputs]` bytes.
    pub codes: &'a [u8],
    /// `[outputs / block[0], inputs / block[1]]`, both rounded up.
    pub scales: &'a [u8],
    /// Type of the scales.
    pub float: DType,
    /// Outputs and inputs that share a scale: `shape` for a single scale, `[1, inputs]` for one per
    /// output, `[128, 128]` for blocks.
    pub block: [usize; 2],
    /// Whether the caller keeps [`Quantized::factor`], which makes a single scale of any value
    /// exact. Otherwise the factor is 1.
    pub factor: bool,
}

/// Converts an FP8 matrix: exactly into `mxfp8` if scales are powers of two (times a common factor,
/// if that is kept), otherwise into 8 bits.
///
/// # Errors
/// If the parts are inconsistent, a scale or a weight is not finite, or rows are not whole groups
/// of 32.
pub fn fp8(source: &Fp8<'_>) -> Result<Converted, ForeignError> {
    let ([rows, cols], [block_rows, block_cols]) = (source.shape, source.block);
    if block_rows == 0 || block_cols == 0 {
        return Err(ForeignError::EmptyGroup);
    }
    Format::MXFP8.check_cols(cols)?;
    check_length("fp8 weight", source.codes, rows.checked_mul(cols))?;
    let blocks = cols.div_ceil(block_cols);
    let scale_count = rows.div_ceil(block_rows).checked_mul(blocks);
    let needed = scale_count.and_then(|count| count.checked_mul(source.float.size()));
    check_length("fp8 scales", source.scales, needed)?;
    let scales = finite_scales(source.float, source.scales)?;

    let group = Format::MXFP8.group();
    // A group must not extend into the next block.
    let aligned = block_cols.is_multiple_of(group) || blocks == 1;
    let sound = || source.codes.iter().all(|code| code & 0x7f != 0x7f);
    let found = if aligned && sound() { powers(&scales, source.factor) } else { None };
    let Some((factor, powers)) = found else {
        return encode_anew([rows, cols], |row, weights| {
            let codes = source.codes.get(row * cols..(row + 1) * cols).unwrap_or_default();
            let scales = scales.get(row / block_rows * blocks..).unwrap_or_default();
            let parts = weights.chunks_mut(block_cols).zip(codes.chunks(block_cols)).zip(scales);
            for ((weights, codes), scale) in parts {
                weights.iter_mut().zip(codes).for_each(|(w, &code)| *w = e4m3(code) * scale);
            }
        });
    };
    let mut matrix = Quantized::zeroed(Format::MXFP8, DType::F32, [rows, cols])?;
    let lines = matrix.rows_mut().zip(source.codes.chunks_exact(cols.max(1))).enumerate();
    for (row, (out, codes)) in lines {
        out.codes.copy_from_slice(codes);
        for (index, scale) in out.scales.iter_mut().enumerate() {
            let block = row / block_rows * blocks + index * group / block_cols;
            *scale = powers.get(block).copied().unwrap_or_default();
        }
    }
    Ok(Converted { matrix: matrix.with_factor(factor), exact: true })
}

/// The weights of an FP8 matrix, `[outputs, inputs]`, for rows that are not whole groups of 32.
///
/// # Errors
/// If the parts are inconsistent, or a scale or a weight is not finite.
pub fn fp8_weights(source: &Fp8<'_>) -> Result<Vec<f32>, ForeignError> {
    let ([rows, cols], [block_rows, block_cols]) = (source.shape, source.block);
    if block_rows == 0 || block_cols == 0 {
        return Err(ForeignError::EmptyGroup);
    }
    check_length("fp8 weight", source.codes, rows.checked_mul(cols))?;
    let across = cols.div_ceil(block_cols);
    let count = rows.div_ceil(block_rows).checked_mul(across);
    let needed = count.and_then(|count| count.checked_mul(source.float.size()));
    check_length("fp8 scales", source.scales, needed)?;
    let scales = finite_scales(source.float, source.scales)?;
    let mut weights = Vec::with_capacity(source.codes.len());
    for (row, codes) in source.codes.chunks_exact(cols.max(1)).enumerate() {
        let scales = scales.get(row / block_rows * across..).unwrap_or_default();
        for (codes, scale) in codes.chunks(block_cols).zip(scales) {
            weights.extend(codes.iter().map(|&code| e4m3(code) * scale));
        }
    }
    match weights.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(ForeignError::Weight { index, value: weights[index] }),
        None => Ok(weights),
    }
}

/// The E8M0 codes of scales that are powers of two times a factor, and the factor, which is 1
/// unless `any_factor`.
fn powers(scales: &[f32], any_factor: bool) -> Option<(f32, Vec<u8>)> {
    let factor = match scales.first() {
        // The significand, in 1..2.
        Some(&scale) if any_factor && scale.is_normal() && scale > 0.0 => {
            f32::from_bits(scale.to_bits() & 0x7f_ffff | 127 << 23)
        }
        _ => 1.0,
    };
    let code = |&scale: &f32| {
        // Division of numbers with equal significands is exact, so only powers of two pass.
        let power = scale / factor;
        let code = match power.to_bits() >> 23 {
            0 => 0,
            code => u8::try_from(code).ok()?,
        };
        (code < 255 && e8m0(code) == power && power * factor == scale).then_some(code)
    };
    Some((factor, scales.iter().map(code).collect::<Option<Vec<u8>>>()?))
}
