//! Passes over all bytes of the weights: loading them into memory, and searching for NaN and
//! infinity.
//!
//! Both advance in pieces of [`PIECE`] bytes. Between pieces they report progress, can be stopped,
//! and check that the file still has its bytes: reading a mapped file that was truncated faults.

use std::hint::black_box;
use std::sync::Arc;

use kinglet_models::{ModelSpec, TensorSpec};
use kinglet_quant::{DType, Mode, ScaleType, decode};

use super::Weights;
use super::error::WeightsError;
use super::quantized::companions;
use super::tensor::Span;

/// Bytes between two reports of progress: a few milliseconds from memory.
const PIECE: usize = 16 << 20;
/// The smallest page size of any system. Reading one byte of each reads every page.
const PAGE: usize = 4096;
/// Bytes scanned between two tests for a match; they fit in the first-level cache.
const BLOCK: usize = 16 << 10;

/// Called with the bytes done and the total; `false` stops the pass.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

impl Weights {
    /// Reads a byte of every page, so that the weights are in memory as far as they fit, with
    /// progress for a loading bar. Not needed for correctness.
    ///
    /// # Errors
    /// [`WeightsError::Cancelled`] if `progress` returns false, [`WeightsError::Shrunk`] if a file
    /// was truncated.
    pub fn touch(&self, progress: Progress<'_>) -> Result<(), WeightsError> {
        let total = self.parts.iter().map(|part| part.bytes().len() as u64).sum();
        let mut done = 0;
        for part in &self.parts {
            for piece in part.bytes().chunks(PIECE) {
                part.check_unchanged()?;
                black_box(piece.iter().step_by(PAGE).fold(0u8, |sum, byte| sum ^ byte));
                done += piece.len() as u64;
                if !progress(done, total) {
                    return Err(WeightsError::Cancelled);
                }
            }
        }
        Ok(())
    }

    /// Searches every element of every tensor that `spec` needs, in order of use, for NaN and
    /// infinity; for quantized tensors the scales, biases, factors, and codes that are floats. It
    /// reads all of the weights, so run it on request, not at every load.
    ///
    /// # Errors
    /// [`WeightsError::NonFinite`] for the first one found; those of [`Weights::touch`] and
    /// [`Weights::get`].
    pub fn scan_non_finite(
        &self,
        spec: &ModelSpec,
        progress: Progress<'_>,
    ) -> Result<(), WeightsError> {
        let mut tensors = Vec::new();
        for tensor in spec.tensors() {
            self.numbers(tensor, &mut tensors)?;
        }
        let total = tensors.iter().map(|numbers| numbers.span.len() as u64).sum();
        let mut done = 0;
        for Numbers { name, span, kind } in tensors {
            let (mut before, span) = (0, span.resident()?);
            let not_there = || WeightsError::NotInMemory { tensor: name.to_string() };
            for piece in span.bytes().ok_or_else(not_there)?.chunks(PIECE) {
                span.check_unchanged()?;
                if let Some(at) = kind.and_then(|kind| first_non_finite(kind, piece)) {
                    let value = kind.map_or(f32::NAN, |kind| value(kind, piece, at));
                    let tensor = name.to_string();
                    return Err(WeightsError::NonFinite { tensor, index: before + at, value });
                }
                before += piece.len() / kind.map_or(1, ScaleType::size);
                done += piece.len() as u64;
                if !progress(done, total) {
                    return Err(WeightsError::Cancelled);
                }
            }
        }
        Ok(())
    }

    /// The tensors that hold the numbers of `tensor`: itself, or its codes and companions.
    fn numbers(&self, tensor: &TensorSpec, all: &mut Vec<Numbers>) -> Result<(), WeightsError> {
        let mut add = |name: &str, kind| {
            let missing = || WeightsError::MissingTensor { tensor: name.to_string() };
            let entry = self.entry(name).ok_or_else(missing)?;
            all.push(Numbers { name: entry.name.clone(), span: self.span(entry)?, kind });
            Ok(())
        };
        let Some(packed) = self.packed(tensor)? else {
            let dtype = self.get(&tensor.name)?.dtype();
            return add(&tensor.name, Some(ScaleType::Float(dtype)));
        };
        let Some(format) = packed.format() else { return Ok(()) };
        let [scales, biases, global] = companions(&tensor.name).unwrap_or_default();
        let scale_type = format.scale_type(packed.float());
        // All codes are valid, except that E4M3 has a NaN.
        let codes = Some(ScaleType::E4M3).filter(|_| format.mode() == Mode::MxFp8);
        add(&tensor.name, codes)?;
        add(&scales, Some(scale_type))?;
        if format.mode() == Mode::Affine {
            add(&biases, Some(scale_type))?;
        }
        if format.mode() == Mode::NvFp4 && self.contains(&global) {
            add(&global, Some(ScaleType::Float(DType::F32)))?;
        }
        Ok(())
    }
}

/// A tensor to scan.
struct Numbers {
    name: Arc<str>,
    span: Span,
    /// The type of its elements; `None` if all of them are valid.
    kind: Option<ScaleType>,
}

/// Element `index` of `bytes`.
fn value(kind: ScaleType, bytes: &[u8], index: usize) -> f32 {
    let at = index.saturating_mul(kind.size());
    let element = bytes.get(at..at.saturating_add(kind.size())).unwrap_or_default();
    let mut value = [f32::NAN];
    if let ScaleType::Float(dtype) = kind {
        // On failure the value stays NaN, which is what is reported.
        let _ = decode(dtype, element, &mut value);
    }
    value[0]
}

/// Index of the first element of `bytes` that is NaN or infinite: its exponent is all ones (for
/// E4M3, all bits but the sign).
fn first_non_finite(kind: ScaleType, bytes: &[u8]) -> Option<usize> {
    let dtype = match kind {
        ScaleType::Float(dtype) => dtype,
        ScaleType::E8M0 => return first(bytes, |[byte]: [u8; 1]| byte == 0xff),
        ScaleType::E4M3 => return first(bytes, |[byte]: [u8; 1]| byte & 0x7f == 0x7f),
    };
    match dtype {
        DType::F32 => first(bytes, |b: [u8; 4]| {
            let mask = 0x7f80_0000;
            u32::from_le_bytes(b) & mask == mask
        }),
        DType::F16 => first(bytes, |b: [u8; 2]| {
            let mask = 0x7c00;
            u16::from_le_bytes(b) & mask == mask
        }),
        DType::BF16 => first(bytes, |b: [u8; 2]| {
            let mask = 0x7f80;
            u16::from_le_bytes(b) & mask == mask
        }),
    }
}

/// Index of the first element that is `bad`. Tests whole blocks without a branch in the loop, so
/// that the compiler can vectorize it.
fn first<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool + Copy) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<N>();
    for (i, block) in elements.chunks(BLOCK / N).enumerate() {
        if block.iter().fold(false, |any, &element| any | bad(element)) {
            return block.iter().position(|&element| bad(element)).map(|at| i * (BLOCK / N) + at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_non_finite_exactly_where_its_float_is() {
        for dtype in [DType::F16, DType::BF16] {
            for bits in 0..=u16::MAX {
                let bytes = bits.to_le_bytes();
                let mut value = [0.0];
                kinglet_quant::decode(dtype, &bytes, &mut value).unwrap();
                let expected = (!value[0].is_finite()).then_some(0);
                assert_eq!(
                    first_non_finite(ScaleType::Float(dtype), &bytes),
                    expected,
                    "{dtype} {bits:#06x}"
                );
            }
        }
        for value in [0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, -f32::NAN] {
            let expected = (!value.is_finite()).then_some(0);
            assert_eq!(
                first_non_finite(ScaleType::Float(DType::F32), &value.to_le_bytes()),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn bytes_are_non_finite_where_their_values_are() {
        for byte in 0..=u8::MAX {
            let e4m3 = (!kinglet_quant::e4m3(byte).is_finite()).then_some(0);
            assert_eq!(first_non_finite(ScaleType::E4M3, &[byte]), e4m3, "{byte:#04x}");
            let e8m0 = (!kinglet_quant::e8m0(byte).is_finite()).then_some(0);
            assert_eq!(first_non_finite(ScaleType::E8M0, &[byte]), e8m0, "{byte:#04x}");
        }
    }

    #[test]
    fn the_first_of_several_is_found_at_any_address_and_across_blocks() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let per_block = BLOCK / dtype.size();
            for index in [0, 1, per_block - 1, per_block, 2 * per_block + 77] {
                // One extra byte, so that elements lie at odd addresses.
                let mut bytes = vec![0; 1 + 3 * BLOCK];
                for at in [index, 3 * per_block - 1] {
                    let end = 1 + (at + 1) * dtype.size();
                    bytes[end - 2..end].copy_from_slice(&[0xff, 0xff]);
                }
                assert_eq!(
                    first_non_finite(ScaleType::Float(dtype), &bytes[1..]),
                    Some(index),
                    "{dtype}"
                );
            }
        }
    }
}
