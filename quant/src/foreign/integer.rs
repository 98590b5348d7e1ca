//! GPTQ and AWQ: `w = scale * (q - zero)` is our affine `scale * q + bias` with `bias = -scale * zero`.
//!
//! Sources: AutoGPTQ (`qlinear_cuda_old.py`) and GPTQModel for GPTQ, AutoAWQ (`gemm.py`, `packing_utils.py`) for AWQ.

use super::{Converted, ForeignError, check_length, encode_anew, finite_scales};
use crate::blocks::unpack;
use crate::{DType, Format, Quantized};

/// A layer in GPTQ's layout. All words are little-endian and have 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Gptq<'a> {
    /// Outputs and inputs, in the opposite order of the tensors.
    pub shape: [usize; 2],
    /// Bits of a code: 2, 3, 4 or 8.
    pub bits: usize,
    /// Inputs per group; the last group may have fewer. For `group_size: -1`, the number of inputs.
    pub group: usize,
    /// `[inputs * bits / 32, outputs]` words. Down a column, the codes are a stream of bits from
    /// the lowest bit.
    pub qweight: &'a [u8],
    /// `[groups, outputs * bits / 32]` words, a stream of bits along the row.
    pub qzeros: &'a [u8],
    /// `[groups, outputs]`.
    pub scales: &'a [u8],
    /// Type of the scales.
    pub float: DType,
    /// `[inputs]`, i32: the group of each input. Without it, groups are consecutive.
    pub g_idx: Option<&'a [u8]>,
    /// Whether zero points are stored unchanged (`checkpoint_format: gptq_v2`). The original format
    /// stores them minus one (modulo `2^bits`).
    pub v2: bool,
}

/// A layer in the layout of AutoAWQ's GEMM version, 4 bits.
#[derive(Clone, Copy, Debug)]
pub struct Awq<'a> {
    /// Outputs and inputs, in the opposite order of the tensors.
    pub shape: [usize; 2],
    /// Inputs per group; the last group may have fewer.
    pub group: usize,
    /// `[inputs, outputs / 8]` words; nibble `i`, from the lowest, belongs to output `8 * word +
    /// [0, 2, 4, 6, 1, 3, 5, 7][i]`.
    pub qweight: &'a [u8],
    /// `[groups, outputs / 8]` words, in the same order.
    pub qzeros: &'a [u8],
    /// `[groups, outputs]`.
    pub scales: &'a [u8],
    /// Type of the scales.
    pub float: DType,
}

/// The output among a word's eight that a nibble belongs to.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Rows that are transposed together: a cache line of words.
const TILE: usize = 16;

/// Converts a GPTQ layer.
///
/// # Errors
/// If the parts are inconsistent, a scale is not finite, or rows are not whole groups of 32.
pub fn gptq(source: &Gptq<'_>) -> Result<Converted, ForeignError> {
    let ([rows, cols], bits) = (source.shape, source.bits);
    if ![2, 3, 4, 8].contains(&bits) {
        return Err(ForeignError::Bits { bits });
    }
    let integer = Integer::new(source.shape, bits, source.group, source.scales, source.float)?;
    let row_words = cols / 32 * bits;
    check_length(
        "qweight",
        source.qweight,
        row_words.checked_mul(4).and_then(|b| b.checked_mul(rows)),
    )?;
    let zero_bytes = rows / 32 * bits * 4 + rows % 32 * bits / 8;
    check_length("qzeros", source.qzeros, zero_bytes.checked_mul(integer.groups))?;
    let group_of = match source.g_idx {
        Some(bytes) => group_indices(bytes, cols, integer.groups)?,
        None => integer.side_by_side(),
    };

    let mut zeros = vec![0u8; integer.scales.len()];
    let mask = ((1u32 << bits) - 1) as u8;
    let lines = zeros.chunks_exact_mut(rows).zip(source.qzeros.chunks_exact(zero_bytes));
    for (zeros, packed) in lines {
        let mut values = vec![0.0; rows];
        unpack(packed, bits, &mut values, f32::from);
        for (zero, value) in zeros.iter_mut().zip(values) {
            let stored = value as u8;
            *zero = if source.v2 { stored } else { stored.wrapping_add(1) & mask };
        }
    }

    // A column of words, from the top, is a row of our layout, so transposing suffices.
    let mut codes =
        crate::matrix::zeros(row_words.checked_mul(4).and_then(|b| b.checked_mul(rows)))?;
    for (tile, out) in codes.chunks_mut(TILE * row_words * 4).enumerate() {
        for (k, line) in source.qweight.chunks_exact(rows * 4).enumerate() {
            let (words, _) = line[tile * TILE * 4..].as_chunks::<4>();
            for (row, word) in out.chunks_exact_mut(row_words * 4).zip(words) {
                row[4 * k..4 * k + 4].copy_from_slice(word);
            }
        }
    }
    integer.convert(codes, &zeros, &group_of)
}

/// Converts an AWQ layer.
///
/// # Errors
/// If the parts are inconsistent, a scale is not finite, or rows are not whole groups of 32.
pub fn awq(source: &Awq<'_>) -> Result<Converted, ForeignError> {
    let ([rows, cols], bits) = (source.shape, 4);
    let integer = Integer::new(source.shape, bits, source.group, source.scales, source.float)?;
    let line_bytes = rows / 2;
    check_length("qweight", source.qweight, line_bytes.checked_mul(cols))?;
    check_length("qzeros", source.qzeros, line_bytes.checked_mul(integer.groups))?;
    let group_of = integer.side_by_side();

    let mut zeros = vec![0u8; integer.scales.len()];
    for (zeros, packed) in zeros.chunks_exact_mut(8).zip(source.qzeros.as_chunks::<4>().0) {
        let word = u32::from_le_bytes(*packed);
        for (i, output) in AWQ_ORDER.into_iter().enumerate() {
            zeros[output] = (word >> (4 * i) & 15) as u8;
        }
    }

    let row_bytes = cols / 2;
    let mut codes = crate::matrix::zeros(row_bytes.checked_mul(rows))?;
    for (index, eight) in codes.chunks_exact_mut(8 * row_bytes).enumerate() {
        // The words of eight inputs become one word of each of eight outputs.
        for (k, lines) in source.qweight.chunks_exact(8 * line_bytes).enumerate() {
            let mut words = [0u32; 8];
            for (input, line) in lines.chunks_exact(line_bytes).enumerate() {
                let (packed, _) = line[4 * index..].as_chunks::<4>();
                let word = packed.first().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                for (i, output) in AWQ_ORDER.into_iter().enumerate() {
                    words[output] |= (word >> (4 * i) & 15) << (4 * input);
                }
            }
            for (row, word) in eight.chunks_exact_mut(row_bytes).zip(words) {
                row[4 * k..4 * k + 4].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
    integer.convert(codes, &zeros, &group_of)
}

/// The common part of both layouts.
struct Integer {
    rows: usize,
    cols: usize,
    bits: usize,
    group: usize,
    groups: usize,
    float: DType,
    /// `[groups, rows]`.
    scales: Vec<f32>,
}

impl Integer {
    fn new(
        [rows, cols]: [usize; 2],
        bits: usize,
        group: usize,
        scales: &[u8],
        float: DType,
    ) -> Result<Self, ForeignError> {
        if group == 0 {
            return Err(ForeignError::EmptyGroup);
        }
        // Our groups have at least 32 inputs.
        Format::affine(bits, 32)?.check_cols(cols)?;
        let whole_words =
            |count: usize| count.checked_mul(bits).is_some_and(|b| b.is_multiple_of(32));
        if rows == 0 || cols == 0 || !whole_words(rows) || !whole_words(cols) {
            return Err(ForeignError::Shape { rows, cols, bits });
        }
        let groups = cols.div_ceil(group);
        let needed = groups.checked_mul(rows).and_then(|count| count.checked_mul(float.size()));
        check_length("scales", scales, needed)?;
        let scales = finite_scales(float, scales)?;
        Ok(Self { rows, cols, bits, group, groups, float, scales })
    }

    /// The group of each input if groups are consecutive.
    fn side_by_side(&self) -> Vec<usize> {
        (0..self.cols).map(|column| column / self.group).collect()
    }

    /// Converts a matrix from `codes`, row by row in our packing, `zeros` `[groups, rows]`, and the
    /// group of each input.
    fn convert(
        &self,
        codes: Vec<u8>,
        zeros: &[u8],
        group_of: &[usize],
    ) -> Result<Converted, ForeignError> {
        let uniform = |size: &usize| {
            self.cols.is_multiple_of(*size)
                && group_of.chunks(*size).all(|run| run.iter().all(|group| *group == run[0]))
        };
        let Some(size) = [128, 64, 32].into_iter().find(uniform) else {
            return self.encode_anew(&codes, zeros, group_of);
        };
        let times = |scale: &f32, factor: u8| f64::from(*scale) * f64::from(factor);
        let fits = |float: DType| {
            let mut biases = self.scales.iter().zip(zeros).map(|(scale, &zero)| times(scale, zero));
            biases.all(|bias| f64::from(float.round(bias as f32)) == bias)
        };
        let (float, exact) = match self.float {
            // The product of a half-type scale and a small integer always fits f32.
            DType::F32 => {
                // Decoding rounds products; with short scales it is exact.
                let largest = u8::MAX >> (8 - self.bits);
                let mut products = self.scales.iter().map(|scale| times(scale, largest));
                (DType::F32, products.all(|p| f64::from(p as f32) == p) && fits(DType::F32))
            }
            float if fits(float) => (float, true),
            _ => (DType::F32, true),
        };
        let format = Format::affine(self.bits, size)?;
        let mut matrix = Quantized::zeroed(format, float, [self.rows, self.cols])?;
        matrix.set_codes(codes);
        for (row, out) in matrix.rows_mut().enumerate() {
            let scales = out.scales.chunks_exact_mut(float.size());
            let biases = out.biases.chunks_exact_mut(float.size());
            let groups = group_of.iter().step_by(size);
            for ((scale_out, bias_out), group) in scales.zip(biases).zip(groups) {
                let index = group * self.rows + row;
                let (scale, zero) = (self.scales[index], zeros[index]);
                float.write(scale, scale_out);
                // `0.0 -` rather than negation, so that no bias is -0.
                float.write(0.0 - scale * f32::from(zero), bias_out);
            }
        }
        Ok(Converted { matrix, exact })
    }

    /// For inputs whose groups are interleaved.
    fn encode_anew(
        &self,
        codes: &[u8],
        zeros: &[u8],
        group_of: &[usize],
    ) -> Result<Converted, ForeignError> {
        let row_bytes = self.cols / 8 * self.bits;
        encode_anew([self.rows, self.cols], |row, weights| {
            let codes = codes.get(row * row_bytes..(row + 1) * row_bytes).unwrap_or_default();
            unpack(codes, self.bits, weights, f32::from);
            for (weight, group) in weights.iter_mut().zip(group_of) {
                let index = group * self.rows + row;
                *weight = self.scales[index] * (*weight - f32::from(zeros[index]));
            }
        })
    }
}

/// The groups in `g_idx`, each of which must exist.
fn group_indices(bytes: &[u8], cols: usize, groups: usize) -> Result<Vec<usize>, ForeignError> {
    check_length("g_idx", bytes, cols.checked_mul(4))?;
    let (indices, _) = bytes.as_chunks::<4>();
    let check = |(column, bytes): (usize, &[u8; 4])| {
        let group = i32::from_le_bytes(*bytes);
        let found = usize::try_from(group).ok().filter(|index| *index < groups);
        found.ok_or(ForeignError::Group { column, group, groups })
    };
    indices.iter().enumerate().map(check).collect()
}
