//! Converts quantized layouts of other projects into ours, as pure functions of bytes.
//!
//! | layout | function | exact when |
//! | --- | --- | --- |
//! | GPTQ, 2, 3, 4 and 8 bits | [`gptq`] | every aligned run of 32 inputs has one group: without act-order, and groups are multiples of 32 |
//! | AWQ (GEMM), 4 bits | [`awq`] | groups are multiples of 32 |
//! | FP8 (E4M3) with scales by tensor, row or block | [`fp8`] | scales are powers of two, or all the same and [`Quantized::factor`] is kept |
//!
//! Anything else becomes 8 bits in groups of 32 with f32 scales, the closest of our formats, and
//! [`Converted::exact`] is false. A result takes at most a small multiple of its source's bytes.
//! Sizes and indices are checked, since the bytes are untrusted.

mod fp8;
mod integer;

use std::fmt;

pub use fp8::{Fp8, fp8, fp8_weights};
pub use integer::{Awq, Gptq, awq, gptq};

use crate::{DType, DecodeError, EncodeError, Encoder, Format, FormatError, Quantized, decode};

/// A converted matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// `[rows, cols]`: outputs, inputs.
    pub matrix: Quantized,
    /// Whether every weight equals the source's exactly. If not, it was encoded again, or the
    /// source's f32 scales have too many digits for exact products with the codes, and weights
    /// differ by some units in the last place.
    pub exact: bool,
}

/// A matrix can't be converted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ForeignError {
    /// There is no such layout.
    Bits {
        /// Bits per code.
        bits: usize,
    },
    /// Codes do not fill whole words of 32 bits, or a size is zero or overflows.
    Shape {
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
        /// Bits per code.
        bits: usize,
    },
    /// The inputs of a group, or the rows and columns of a block, are zero.
    EmptyGroup,
    /// A part has a different length than the shape requires.
    Length {
        /// The tensor.
        part: &'static str,
        /// Length that was given, in bytes.
        found: usize,
        /// Required length, in bytes.
        needed: usize,
    },
    /// `g_idx` names a group that does not exist.
    Group {
        /// The input.
        column: usize,
        /// Its group.
        group: i32,
        /// Number of groups.
        groups: usize,
    },
    /// A scale is NaN or infinite.
    Scale {
        /// Index in the tensor of scales.
        index: usize,
        /// The scale.
        value: f32,
    },
    /// A weight is NaN or infinite.
    Weight {
        /// Index in the matrix.
        index: usize,
        /// The weight.
        value: f32,
    },
    /// The matrix can't be encoded again.
    Encode(EncodeError),
}

impl fmt::Display for ForeignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits { bits } => write!(
                f,
                "codes of {bits} bits: GPTQ with 2, 3, 4 or 8 bits and AWQ with 4 bits can be converted"
            ),
            Self::Shape { rows, cols, bits } => write!(
                f,
                "a matrix of {rows} outputs and {cols} inputs does not pack into whole words at {bits} bits"
            ),
            Self::EmptyGroup => f.write_str("the group size is zero"),
            Self::Length { part, found, needed } => {
                write!(f, "{part} of {found} bytes where {needed} are needed")
            }
            Self::Group { column, group, groups } => write!(
                f,
                "g_idx puts input {column} into group {group}, but there are {groups} groups"
            ),
            Self::Scale { index, value } => write!(f, "scale {index} is {value}"),
            Self::Weight { index, value } => write!(f, "weight {index} is {value}"),
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ForeignError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Encode(error) => Some(error),
            _ => None,
        }
    }
}

impl From<EncodeError> for ForeignError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl From<FormatError> for ForeignError {
    fn from(error: FormatError) -> Self {
        Self::Encode(EncodeError::Format(error))
    }
}

impl From<DecodeError> for ForeignError {
    fn from(error: DecodeError) -> Self {
        let needed = error.elements.saturating_mul(error.dtype.size());
        Self::Length { part: "scales", found: error.bytes, needed }
    }
}

/// Encodes a matrix again; `row(i, weights)` writes the weights of row `i`.
fn encode_anew(
    [rows, cols]: [usize; 2],
    mut row: impl FnMut(usize, &mut [f32]),
) -> Result<Converted, ForeignError> {
    let encoder = Encoder::new(Format::affine(8, 32)?, DType::F32);
    let mut matrix = Quantized::zeroed(encoder.format(), DType::F32, [rows, cols])?;
    let mut weights = vec![0.0; cols];
    for (index, mut out) in matrix.rows_mut().enumerate() {
        row(index, &mut weights);
        encoder.encode_row(&weights, &mut out)?;
    }
    Ok(Converted { matrix, exact: false })
}

/// Fails unless `part` has exactly the given number of bytes.
fn check_length(
    part: &'static str,
    bytes: &[u8],
    needed: Option<usize>,
) -> Result<(), ForeignError> {
    match needed {
        Some(needed) if needed == bytes.len() => Ok(()),
        _ => {
            let (found, needed) = (bytes.len(), needed.unwrap_or(usize::MAX));
            Err(ForeignError::Length { part, found, needed })
        }
    }
}

/// Decodes scales, all of which must be finite.
fn finite_scales(float: DType, bytes: &[u8]) -> Result<Vec<f32>, ForeignError> {
    let mut scales = vec![0.0; bytes.len() / float.size()];
    decode(float, bytes, &mut scales)?;
    match scales.iter().enumerate().find(|(_, scale)| !scale.is_finite()) {
        None => Ok(scales),
        Some((index, &value)) => Err(ForeignError::Scale { index, value }),
    }
}
