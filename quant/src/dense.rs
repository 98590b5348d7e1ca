//! Dense element types and their conversion to `f32`.
//!
//! Bytes come from memory-mapped files, so nothing here assumes any alignment.

use std::fmt;

use half::{bf16, f16};

/// Element type of a dense tensor. All are little-endian, as in safetensors.
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

    /// Name in safetensors headers: `F32`, `F16`, `BF16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
        }
    }

    /// Rounds to the nearest value of this type, ties to even; values beyond its range become
    /// infinity.
    #[inline]
    pub fn round(self, value: f32) -> f32 {
        match self {
            DType::F32 => value,
            DType::F16 => f16::from_f32(value).to_f32(),
            DType::BF16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Writes the rounded `value` to `bytes`. Writes nothing unless `bytes` is [`Self::size`] long.
    pub(crate) fn write(self, value: f32, bytes: &mut [u8]) {
        match (self, bytes) {
            (DType::F32, [a, b, c, d]) => [*a, *b, *c, *d] = value.to_le_bytes(),
            (DType::F16, [a, b]) => [*a, *b] = f16::from_f32(value).to_le_bytes(),
            (DType::BF16, [a, b]) => [*a, *b] = bf16::from_f32(value).to_le_bytes(),
            _ => debug_assert!(false, "wrong length"),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The length of the bytes given to [`decode`] does not match the number of elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Number of bytes.
    pub bytes: usize,
    /// Number of elements.
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

/// Decodes `bytes` (any alignment) into `out`. This is exact: every F16 and BF16 value is an `f32`.
///
/// # Errors
/// If `bytes` is not `out.len()` elements of `dtype` long.
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

/// Encodes `values` into `bytes`, each rounded to nearest, ties to even.
///
/// # Errors
/// If `bytes` is not `values.len()` elements of `dtype` long.
pub fn encode(dtype: DType, values: &[f32], bytes: &mut [u8]) -> Result<(), DecodeError> {
    if Some(bytes.len()) != values.len().checked_mul(dtype.size()) {
        return Err(DecodeError { bytes: bytes.len(), elements: values.len(), dtype });
    }
    bytes.chunks_exact_mut(dtype.size()).zip(values).for_each(|(b, &v)| dtype.write(v, b));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_values_decode_like_the_half_crate_at_odd_addresses() {
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
    fn encoding_rounds_to_the_nearest_value() {
        let values = [1.0, -2.5, 1e-30, 65_519.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let mut bytes = vec![0; values.len() * dtype.size()];
            encode(dtype, &values, &mut bytes).unwrap();
            let mut out = [0.0; 6];
            decode(dtype, &bytes, &mut out).unwrap();
            assert_eq!(out, values.map(|value| dtype.round(value)));
            assert!(encode(dtype, &values, &mut bytes[1..]).is_err());
        }
        assert_eq!(DType::F16.round(65_519.0), 65_504.0);
        // Halfway between two values: the even one.
        assert_eq!(DType::BF16.round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(DType::BF16.round(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
    }

    #[test]
    fn a_wrong_length_is_an_error_with_its_numbers() {
        let error = decode(DType::F32, &[0; 7], &mut [0.0; 2]).unwrap_err();
        assert_eq!(error.to_string(), "7 bytes do not hold 2 elements of F32");
    }
}
