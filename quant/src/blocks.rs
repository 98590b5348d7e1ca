//! [`Blocks`]: a borrowed view of a quantized matrix.

use std::fmt;

use crate::{DType, Format, FormatError, Mode, ScaleType, decode, e2m1, e4m3, e8m0};

/// A view of a quantized matrix, `[rows, cols]`, in a file or a buffer, **at any address**.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    codes: &'a [u8],
    scale_type: ScaleType,
    scales: &'a [u8],
    biases: &'a [u8],
    factor: f32,
}

/// The parts of a quantized matrix are inconsistent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlocksError {
    /// Rows are not whole groups.
    Format(FormatError),
    /// A part has a different length than format and shape require.
    Length {
        /// `codes`, `scales` or `biases`.
        part: &'static str,
        /// Length that was given, in bytes.
        found: usize,
        /// Required length, in bytes.
        needed: usize,
    },
}

impl fmt::Display for BlocksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(error) => error.fmt(f),
            Self::Length { part, found, needed } => {
                write!(f, "{part} of {found} bytes where {needed} are needed")
            }
        }
    }
}

impl std::error::Error for BlocksError {}

impl From<FormatError> for BlocksError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl<'a> Blocks<'a> {
    /// Creates a view of `rows` by `cols` weights from their `codes` (`[rows, cols * bits / 32]`
    /// words), `scales` and `biases` (`[rows, cols / group]`; only for affine, otherwise empty).
    /// `float` is the type of affine scales and biases.
    ///
    /// # Errors
    /// If a part has a different length.
    pub fn new(
        format: Format,
        float: DType,
        [rows, cols]: [usize; 2],
        codes: &'a [u8],
        scales: &'a [u8],
        biases: &'a [u8],
    ) -> Result<Self, BlocksError> {
        format.check_cols(cols)?;
        let scale_type = format.scale_type(float);
        let scale_bytes = rows.saturating_mul(format.groups(cols) * scale_type.size());
        let bias_bytes = if format.mode() == Mode::Affine { scale_bytes } else { 0 };
        for (part, found, needed) in [
            ("codes", codes.len(), rows.saturating_mul(format.row_bytes(cols))),
            ("scales", scales.len(), scale_bytes),
            ("biases", biases.len(), bias_bytes),
        ] {
            if found != needed {
                return Err(BlocksError::Length { part, found, needed });
            }
        }
        Ok(Self { format, rows, cols, codes, scale_type, scales, biases, factor: 1.0 })
    }

    /// The same matrix with all weights multiplied by `factor` (NVFP4's global scale).
    pub fn with_factor(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// Its layout.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Type of the scales.
    pub fn scale_type(&self) -> ScaleType {
        self.scale_type
    }

    /// Factor on all weights; 1 nearly everywhere.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Codes of all rows, [`Format::row_bytes`] bytes each.
    pub fn codes(&self) -> &'a [u8] {
        self.codes
    }

    /// Scales of all rows, [`Format::groups`] each.
    pub fn scales(&self) -> &'a [u8] {
        self.scales
    }

    /// Biases of all rows, as many as scales; empty unless affine.
    pub fn biases(&self) -> &'a [u8] {
        self.biases
    }

    /// Codes of row `row`; empty if there is no such row.
    pub fn row_codes(&self, row: usize) -> &'a [u8] {
        part(self.codes, row, self.format.row_bytes(self.cols))
    }

    /// Scales of row `row`; empty if there is no such row.
    pub fn row_scales(&self, row: usize) -> &'a [u8] {
        part(self.scales, row, self.format.groups(self.cols) * self.scale_type.size())
    }

    /// Biases of row `row`; empty if there is no such row, or no bias.
    pub fn row_biases(&self, row: usize) -> &'a [u8] {
        part(self.biases, row, self.format.groups(self.cols) * self.scale_type.size())
    }

    /// Decodes row `row` into `out`: `w = scale * q + bias` in f32, with one rounding of the
    /// product and one of the sum.
    ///
    /// # Errors
    /// If `out` is not `cols` long or the row does not exist.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<(), BlocksError> {
        self.each_group(row, out, |out, codes, bits, scale, bias| match self.format.mode() {
            Mode::Affine => unpack(codes, bits, out, |q| scale * f32::from(q) + bias),
            Mode::MxFp4 | Mode::NvFp4 => unpack(codes, bits, out, |q| scale * e2m1(q)),
            Mode::MxFp8 => unpack(codes, bits, out, |q| scale * e4m3(q)),
        })
    }

    /// Decodes row `row` into `out` bit for bit like `mlx.core.dequantize`: for affine scales of a
    /// half type, product and sum are each rounded to that type; otherwise the product is rounded
    /// to `float`, and so is an MX scale before it. With a factor other than 1
    /// ([`Self::with_factor`]) nothing is rounded, since MLX then computes in f32.
    ///
    /// Only for comparisons with MLX: the engine computes with [`Self::decode_row`].
    ///
    /// # Errors
    /// If `out` is not `cols` long or the row does not exist.
    pub fn decode_row_rounded(
        &self,
        row: usize,
        float: DType,
        out: &mut [f32],
    ) -> Result<(), BlocksError> {
        let float = match self.scale_type {
            ScaleType::Float(float) => float,
            _ if self.factor != 1.0 => DType::F32,
            _ => float,
        };
        self.each_group(row, out, |out, codes, bits, scale, bias| {
            let scale = float.round(scale);
            let value = |q: f32| float.round(scale * q);
            match self.format.mode() {
                Mode::Affine => {
                    unpack(codes, bits, out, |q| float.round(value(f32::from(q)) + bias));
                }
                Mode::MxFp4 | Mode::NvFp4 => unpack(codes, bits, out, |q| value(e2m1(q))),
                Mode::MxFp8 => unpack(codes, bits, out, |q| value(e4m3(q))),
            }
        })
    }

    /// Calls `decode(weights, codes, bits, scale, bias)` for each group of row `row`.
    fn each_group(
        &self,
        row: usize,
        out: &mut [f32],
        decode: impl Fn(&mut [f32], &[u8], usize, f32, f32),
    ) -> Result<(), BlocksError> {
        if out.len() != self.cols {
            let (found, needed) = (4 * out.len(), 4 * self.cols);
            return Err(BlocksError::Length { part: "decoded row", found, needed });
        }
        if row >= self.rows {
            return Err(BlocksError::Length { part: "row", found: self.rows, needed: row });
        }
        let (bits, size) = (self.format.bits(), self.scale_type.size());
        let codes = self.row_codes(row);
        let biases = self.row_biases(row);
        let group_bytes = self.format.group() * bits / 8;
        let groups = out.chunks_mut(self.format.group()).zip(codes.chunks(group_bytes));
        let scales = self.row_scales(row).chunks(size);
        for (index, ((out, codes), scale)) in groups.zip(scales).enumerate() {
            let bias = match self.format.mode() {
                Mode::Affine => self.scale(part(biases, index, size)) * self.factor,
                _ => 0.0,
            };
            decode(out, codes, bits, self.scale(scale) * self.factor, bias);
        }
        Ok(())
    }

    /// The value of a stored scale or bias.
    fn scale(&self, bytes: &[u8]) -> f32 {
        match self.scale_type {
            ScaleType::Float(dtype) => {
                let mut value = [0.0];
                // The slice has exactly the type's size.
                let decoded = decode(dtype, bytes, &mut value);
                debug_assert!(decoded.is_ok());
                value[0]
            }
            ScaleType::E8M0 => bytes.first().map_or(0.0, |&code| e8m0(code)),
            ScaleType::E4M3 => bytes.first().map_or(0.0, |&code| e4m3(code)),
        }
    }
}

impl fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blocks({}x{} {})", self.rows, self.cols, self.format)
    }
}

/// Part `index` of `bytes`, split into parts of `size`.
fn part(bytes: &[u8], index: usize, size: usize) -> &[u8] {
    let range = || {
        let start = index.checked_mul(size)?;
        Some(start..start.checked_add(size)?)
    };
    range().and_then(|range| bytes.get(range)).unwrap_or_default()
}

/// `out[i] = value(code i)` for codes of `bits` bits, packed from the lowest bit on.
pub(crate) fn unpack(codes: &[u8], bits: usize, out: &mut [f32], value: impl Fn(u8) -> f32) {
    let mask = (1u32 << bits) - 1;
    let (mut held, mut count) = (0u32, 0);
    let mut bytes = codes.iter();
    for out in out {
        if count < bits {
            held |= u32::from(bytes.next().copied().unwrap_or_default()) << count;
            count += 8;
        }
        // The mask leaves at most 8 bits.
        *out = value((held & mask) as u8);
        held >>= bits;
        count -= bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_a_stream_from_the_lowest_bit() {
        for bits in [2usize, 3, 4, 5, 6, 8] {
            let codes: Vec<u8> = (0..64u32).map(|i| (i * 37 % (1 << bits)) as u8).collect();
            let mut bytes = vec![0u8; 8 * bits];
            for (i, code) in codes.iter().enumerate() {
                for bit in 0..bits {
                    if code >> bit & 1 == 1 {
                        bytes[(i * bits + bit) / 8] |= 1 << ((i * bits + bit) % 8);
                    }
                }
            }
            let mut out = [0.0; 64];
            unpack(&bytes, bits, &mut out, f32::from);
            let expected: Vec<f32> = codes.iter().copied().map(f32::from).collect();
            assert_eq!(out[..], expected[..], "{bits} bits");
        }
    }

    #[test]
    fn rows_decode_as_scale_times_code_plus_bias() {
        let format = Format::affine(4, 32).unwrap();
        let codes: Vec<u8> = (0..64).map(|i| (i % 16) | ((i + 3) % 16) << 4).collect();
        let scales: Vec<u8> =
            [0.5f32, -0.25, 2.0, 1.0].into_iter().flat_map(f32::to_le_bytes).collect();
        let biases: Vec<u8> =
            [-1.0f32, 4.0, 0.0, 0.5].into_iter().flat_map(f32::to_le_bytes).collect();
        let blocks = Blocks::new(format, DType::F32, [2, 64], &codes, &scales, &biases).unwrap();
        let mut row = [0.0; 64];
        blocks.decode_row(1, &mut row).unwrap();
        assert_eq!(row[0], 0.0 * 2.0);
        assert_eq!(row[1], 3.0 * 2.0);
        assert_eq!(row[32 + 2], f32::from(codes[32 + 17] & 15) + 0.5);
        blocks.decode_row(0, &mut row).unwrap();
        assert_eq!(row[3], f32::from(codes[1] >> 4) * 0.5 - 1.0);
        assert_eq!(row[63], f32::from(codes[31] >> 4) * -0.25 + 4.0);
        assert!(blocks.decode_row(2, &mut row).is_err());
        assert!(blocks.decode_row(0, &mut row[..32]).is_err());
        assert!(Blocks::new(format, DType::F32, [2, 64], &codes, &scales[1..], &biases).is_err());
        assert!(Blocks::new(format, DType::F32, [2, 48], &codes, &scales, &biases).is_err());
    }
}
