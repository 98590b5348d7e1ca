//! Dense element types and their conversion to `f32`.
//!
//! Bytes come from memory-mapped files, so nothing here assumes any alignment.

use std::fmt;

use half::{bf16, f16};

/// The element type of a dense tensor. All are little-endian, as safetensors stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The name that safetensors headers use: `F32`, `F16`, `BF16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bytes given to [`decode`] do not fit the elements asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Bytes that were given.
    pub bytes: usize,
    /// Elements that were to be filled.
    pub elements: usize,
    /// Their type.
    pub dtype: DType,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes do not hold {} elements of {}", self.bytes, self.elements, self.dtype)
    }
}

impl std::error::Error for DecodeError {}

/// Decodes `bytes` (any alignment) into `out`, exactly: every F16 and BF16 value is an `f32`.
///
/// # Errors
/// When `bytes` is not `out.len()` elements of `dtype` long.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), DecodeError> {
    if Some(bytes.len()) != out.len().checked_mul(dtype.size()) {
        return Err(DecodeError { bytes: bytes.len(), elements: out.len(), dtype });
    }
    match dtype {
        DType::F32 => {
            let (elements, _) = bytes.as_chunks::<4>();
            out.iter_mut().zip(elements).for_each(|(o, b)| *o = f32::from_le_bytes(*b));
        }
        DType::F16 => {
            let (elements, _) = bytes.as_chunks::<2>();
            out.iter_mut().zip(elements).for_each(|(o, b)| *o = f16::from_le_bytes(*b).to_f32());
        }
        DType::BF16 => {
            let (elements, _) = bytes.as_chunks::<2>();
            out.iter_mut().zip(elements).for_each(|(o, b)| *o = bf16::from_le_bytes(*b).to_f32());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_value_decodes_as_the_half_crate_says_at_odd_addresses() {
        let mut bytes = vec![0u8];
        bytes.extend((0..=u16::MAX).flat_map(u16::to_le_bytes));
        let mut out = vec![0.0; 1 << 16];
        decode(DType::F16, &bytes[1..], &mut out).unwrap();
        for (bits, &value) in (0..=u16::MAX).zip(&out) {
            let expected = f16::from_bits(bits).to_f32();
            assert!(value == expected || (value.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
        decode(DType::BF16, &bytes[1..], &mut out).unwrap();
        for (bits, &value) in (0..=u16::MAX).zip(&out) {
            let expected = f32::from_bits(u32::from(bits) << 16);
            assert!(value == expected || (value.is_nan() && expected.is_nan()), "{bits:#06x}");
        }
    }

    #[test]
    fn a_wrong_length_is_an_error_with_its_numbers() {
        let error = decode(DType::F32, &[0; 7], &mut [0.0; 2]).unwrap_err();
        assert_eq!(error.to_string(), "7 bytes do not hold 2 elements of F32");
    }
}
