//! A page of a key/value cache: [`PAGE`] positions of one head, plain or quantized.
//!
//! Plain: keys as `[head_dim, PAGE]`, so that the scores of a page are one product with positions
//! along the vector, then values as `[PAGE, head_dim]`. Quantized: every [`CACHE_GROUP`] elements
//! of a position's key or value have their own scale and bias, `x = scale * code + bias`, so that
//! what is stored for a position depends on it alone, not on how the tokens were fed. A page is
//! unpacked for reading. Codes and scales are laid out for whole vectors: positions along them for
//! keys, elements for values.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::simd::{Isa, Kernel, Simd};
use crate::Error;
use crate::backend::cache_codes::{Bits, encode};
use crate::error::grow;
use crate::plan::{CACHE_GROUP as GROUP, StateFormat};

/// Positions per page.
pub(super) const PAGE: usize = 64;

/// Label in allocation errors.
const WHAT: &str = "the key/value cache";

/// Shared until it is written to.
#[derive(Clone)]
pub(super) enum Page {
    /// Keys `[head_dim, PAGE]`, values `[PAGE, head_dim]`.
    Plain(Arc<Vec<f32>>),
    Packed(Arc<Packed>),
}

/// Codes of keys and values.
#[derive(Clone)]
pub(super) struct Packed {
    bits: Bits,
    /// Groups in a position's key.
    groups: usize,
    /// Keys: `[groups, 2, PAGE]`, scales and biases. Values: `[PAGE, groups, 2]`.
    scales: Vec<f16>,
    /// Keys: `[groups, bytes of a group, PAGE]`. Values: `[PAGE, groups, bytes of a group]`. If a
    /// byte holds two codes, the one in the low bits is from the first half of the group, and the
    /// other from the same place in the second half.
    codes: Vec<u8>,
}

impl Page {
    /// Creates a page of zeros.
    pub(super) fn new(format: StateFormat, head_dim: usize) -> Result<Self, Error> {
        let Some(bits) = Bits::of(format) else {
            let mut page = Vec::new();
            grow(&mut page, 2 * head_dim * PAGE, WHAT)?;
            return Ok(Self::Plain(Arc::new(page)));
        };
        let groups = head_dim.div_ceil(GROUP);
        let mut scales = Vec::new();
        let mut codes = Vec::new();
        let (scales_len, codes_len) = (4 * groups * PAGE, 2 * groups * bits.bytes() * PAGE);
        let bytes = 2 * scales_len + codes_len;
        let none = |_| Error::OutOfMemory { what: WHAT, bytes };
        scales.try_reserve_exact(scales_len).map_err(none)?;
        codes.try_reserve_exact(codes_len).map_err(none)?;
        scales.resize(scales_len, f16::ZERO);
        codes.resize(codes_len, 0);
        Ok(Self::Packed(Arc::new(Packed { bits, groups, scales, codes })))
    }

    /// Makes the page unshared, copying it if necessary.
    pub(super) fn unshare(&mut self) -> Result<(), Error> {
        match self {
            Self::Plain(page) => unshare(page, WHAT),
            Self::Packed(page) => {
                if Arc::get_mut(page).is_some() {
                    return Ok(());
                }
                let Packed { bits, groups, scales, codes } = &**page;
                let mut copy =
                    Packed { bits: *bits, groups: *groups, scales: Vec::new(), codes: Vec::new() };
                let bytes = 2 * scales.len() + codes.len();
                let none = |_| Error::OutOfMemory { what: WHAT, bytes };
                copy.scales.try_reserve_exact(scales.len()).map_err(none)?;
                copy.codes.try_reserve_exact(codes.len()).map_err(none)?;
                copy.scales.extend_from_slice(scales);
                copy.codes.extend_from_slice(codes);
                *page = Arc::new(copy);
                Ok(())
            }
        }
    }

    /// Writes key and value of the position in `slot`. Copies a shared page first.
    pub(super) fn write(&mut self, slot: usize, key: &[f32], value: &[f32]) {
        match self {
            Self::Plain(page) => {
                let memory = Arc::make_mut(page);
                let (keys, values) = memory.split_at_mut(key.len() * PAGE);
                for (keys, k) in keys.chunks_exact_mut(PAGE).zip(key) {
                    keys[slot] = *k;
                }
                values[slot * value.len()..][..value.len()].copy_from_slice(value);
            }
            Self::Packed(page) => Arc::make_mut(page).write(slot, key, value),
        }
    }

    /// Reads key and value of the position in `slot`.
    pub(super) fn read(&self, slot: usize, key: &mut [f32], value: &mut [f32]) {
        match self {
            Self::Plain(page) => {
                let (keys, values) = page.split_at(key.len() * PAGE);
                for (k, keys) in key.iter_mut().zip(keys.chunks_exact(PAGE)) {
                    *k = keys[slot];
                }
                value.copy_from_slice(&values[slot * value.len()..][..value.len()]);
            }
            Self::Packed(page) => {
                for (i, (k, v)) in key.iter_mut().zip(value).enumerate() {
                    [*k, *v] = page.element(slot, i);
                }
            }
        }
    }

    /// Keys `[head_dim, PAGE]` and values `[PAGE, head_dim]`, unpacked into `scratch` if necessary.
    /// `scratch` must have [`Self::scratch`] elements.
    pub(super) fn unpacked<'a>(
        &'a self,
        isa: Isa,
        scratch: &'a mut [f32],
    ) -> (&'a [f32], &'a [f32]) {
        match self {
            Self::Plain(page) => page.split_at(page.len() / 2),
            Self::Packed(page) => {
                let half = scratch.len() / 2;
                let (keys, values) = scratch.split_at_mut(half);
                isa.dispatch(Unpack { page, keys, values });
                scratch.split_at(half)
            }
        }
    }

    /// Elements of scratch memory that [`Self::unpacked`] needs.
    pub(super) fn scratch(format: StateFormat, head_dim: usize) -> usize {
        Bits::of(format).map_or(0, |_| 2 * head_dim * PAGE)
    }

    /// An address that identifies the page.
    pub(super) fn address(&self) -> usize {
        match self {
            Self::Plain(page) => Arc::as_ptr(page).addr(),
            Self::Packed(page) => Arc::as_ptr(page).addr(),
        }
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain(page) => 4 * page.len(),
            Self::Packed(page) => 2 * page.scales.len() + page.codes.len(),
        }
    }
}

impl Packed {
    fn write(&mut self, slot: usize, key: &[f32], value: &[f32]) {
        let Self { bits, groups, scales, codes } = self;
        let bytes = bits.bytes();
        let (key_scales, value_scales) = scales.split_at_mut(2 * *groups * PAGE);
        let (key_codes, value_codes) = codes.split_at_mut(*groups * bytes * PAGE);
        for (group, (key, value)) in key.chunks(GROUP).zip(value.chunks(GROUP)).enumerate() {
            let (scale, bias, own) = encode(*bits, key);
            key_scales[2 * group * PAGE + slot] = scale;
            key_scales[(2 * group + 1) * PAGE + slot] = bias;
            let (low, high) = own.split_at(GROUP / 2);
            for byte in 0..bytes {
                key_codes[(group * bytes + byte) * PAGE + slot] = match bits {
                    Bits::Eight => own[byte],
                    Bits::Four => low[byte] | high[byte] << 4,
                };
            }
            let (scale, bias, own) = encode(*bits, value);
            let at = slot * *groups + group;
            value_scales[2 * at..2 * at + 2].copy_from_slice(&[scale, bias]);
            let (low, high) = own.split_at(GROUP / 2);
            for byte in 0..bytes {
                value_codes[at * bytes + byte] = match bits {
                    Bits::Eight => own[byte],
                    Bits::Four => low[byte] | high[byte] << 4,
                };
            }
        }
    }

    /// Element `i` of key and value of the position in `slot`.
    fn element(&self, slot: usize, i: usize) -> [f32; 2] {
        let Self { bits, groups, scales, codes } = self;
        let (group, i, bytes) = (i / GROUP, i % GROUP, bits.bytes());
        let (byte, shift) = match bits {
            Bits::Eight => (i, 0),
            Bits::Four => (i % (GROUP / 2), i / (GROUP / 2) * 4),
        };
        let code = |at: usize| f32::from(codes[at] >> shift & bits.most() as u8);
        let number = |at: usize, scale: usize, bias: usize| {
            code(at) * scales[scale].to_f32() + scales[bias].to_f32()
        };
        let at = slot * groups + group;
        let (first_scale, first_code) = (2 * groups * PAGE, groups * bytes * PAGE);
        [
            number(
                (group * bytes + byte) * PAGE + slot,
                2 * group * PAGE + slot,
                (2 * group + 1) * PAGE + slot,
            ),
            number(first_code + at * bytes + byte, first_scale + 2 * at, first_scale + 2 * at + 1),
        ]
    }
}

/// Unpacks a page.
struct Unpack<'a> {
    page: &'a Packed,
    /// `[head_dim, PAGE]`.
    keys: &'a mut [f32],
    /// `[PAGE, head_dim]`.
    values: &'a mut [f32],
}

impl Kernel for Unpack<'_> {
    type Output = ();
    /// Plain loops of known length, which the compiler vectorizes for the current instruction set.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Packed { bits, groups, scales, codes } = self.page;
        let (bytes, dim) = (bits.bytes(), self.keys.len() / PAGE);
        let (key_scales, value_scales) = scales.split_at(2 * groups * PAGE);
        let (key_codes, value_codes) = codes.split_at(groups * bytes * PAGE);
        let rows = |scales: &[f16]| {
            let mut wide = [0.0f32; PAGE];
            scales.convert_to_f32_slice(&mut wide);
            wide
        };
        for (group, keys) in self.keys.chunks_mut(GROUP * PAGE).enumerate() {
            let own = &key_scales[2 * group * PAGE..][..2 * PAGE];
            let (scale, bias) = (rows(&own[..PAGE]), rows(&own[PAGE..]));
            let codes = key_codes[group * bytes * PAGE..][..bytes * PAGE].as_chunks::<PAGE>().0;
            let (keys, _) = keys.as_chunks_mut::<PAGE>();
            for (i, keys) in keys.iter_mut().enumerate() {
                let (row, shift) = match bits {
                    Bits::Eight => (i, 0),
                    Bits::Four => (i % (GROUP / 2), i / (GROUP / 2) * 4),
                };
                let (codes, mask) = (&codes[row], bits.most() as u8);
                for p in 0..PAGE {
                    keys[p] = f32::from(codes[p] >> shift & mask) * scale[p] + bias[p];
                }
            }
        }
        // Converts a whole head's scales at a time, or as many as fit.
        let mut wide = [[0.0f32; 2]; 32];
        for (slot, values) in self.values.chunks_mut(dim.max(1)).enumerate() {
            for (group, values) in values.chunks_mut(GROUP).enumerate() {
                let at = slot * groups + group;
                if group % wide.len() == 0 {
                    let own = &value_scales[2 * at..2 * (at + wide.len().min(groups - group))];
                    own.convert_to_f32_slice(&mut wide.as_flattened_mut()[..own.len()]);
                }
                let [scale, bias] = wide[group % wide.len()];
                let codes = &value_codes[at * bytes..][..bytes];
                let mut whole = [0.0f32; GROUP];
                match bits {
                    Bits::Eight => {
                        for (x, code) in whole.iter_mut().zip(codes) {
                            *x = f32::from(*code) * scale + bias;
                        }
                    }
                    Bits::Four => {
                        let (low, high) = whole.split_at_mut(GROUP / 2);
                        for ((low, high), code) in low.iter_mut().zip(high).zip(codes) {
                            *low = f32::from(code & 15) * scale + bias;
                            *high = f32::from(code >> 4) * scale + bias;
                        }
                    }
                }
                values.copy_from_slice(&whole[..values.len()]);
            }
        }
    }
}

/// Makes `memory` unshared, copying it if necessary.
pub(super) fn unshare<T: Copy>(memory: &mut Arc<Vec<T>>, what: &'static str) -> Result<(), Error> {
    if Arc::get_mut(memory).is_none() {
        let mut copy = Vec::new();
        let bytes = size_of::<T>() * memory.len();
        copy.try_reserve_exact(memory.len()).map_err(|_| Error::OutOfMemory { what, bytes })?;
        copy.extend_from_slice(memory);
        *memory = Arc::new(copy);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of very different magnitudes, the same at every call.
    fn number(i: usize) -> f32 {
        let x = ((i as f32 + 1.0) * 12.9898).sin() * 43758.547;
        (x - x.floor() - 0.5) * [0.01, 1.0, 30.0][i % 7 % 3]
    }

    #[test]
    fn what_is_unpacked_is_what_is_read_and_near_what_was_written() {
        for (format, most) in [(StateFormat::Affine8, 255.0), (StateFormat::Affine4, 15.0)] {
            for dim in [1, 5, 32, 40, 64, 128] {
                let mut page = Page::new(format, dim).unwrap();
                assert_eq!(page.bytes(), format.bytes(2 * PAGE, dim));
                for slot in 0..PAGE {
                    let key: Vec<f32> = (0..dim).map(|i| number(slot * dim + i)).collect();
                    let value: Vec<f32> = (0..dim).map(|i| number(7 * slot * dim + i)).collect();
                    page.write(slot, &key, &value);
                }
                let mut scratch = vec![f32::NAN; Page::scratch(format, dim)];
                let (keys, values) = page.unpacked(Isa::detect(), &mut scratch);
                let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
                for slot in 0..PAGE {
                    page.read(slot, &mut key, &mut value);
                    for i in 0..dim {
                        assert!((keys[i * PAGE + slot] - key[i]).abs() <= 1e-6 * key[i].abs());
                        let other = values[slot * dim + i];
                        assert!((other - value[i]).abs() <= 1e-6 * value[i].abs());
                        // Half a code, and the f16 rounding of scale and bias.
                        let bound = 61.0 * (0.5 / most + 1.0 / 1024.0);
                        assert!((key[i] - number(slot * dim + i)).abs() <= bound);
                        assert!((value[i] - number(7 * slot * dim + i)).abs() <= bound);
                    }
                }
            }
        }
    }

    #[test]
    fn what_no_code_can_tell_stays_finite() {
        for values in [vec![7.0; 40], vec![0.0; 33], vec![1e9, -1e9, 0.0], vec![f32::NAN, 1.0]] {
            for format in [StateFormat::Affine8, StateFormat::Affine4] {
                let mut page = Page::new(format, values.len()).unwrap();
                page.write(3, &values, &values);
                let (mut key, mut value) = (values.clone(), values.clone());
                page.read(3, &mut key, &mut value);
                assert_eq!(key, value);
                assert!(key.iter().all(|x| x.is_finite()), "{key:?}");
                if values.iter().all(|x| *x == values[0]) {
                    assert_eq!(key, values, "what is all the same is exact");
                }
            }
        }
    }

    #[test]
    fn a_page_is_copied_when_one_of_two_writes() {
        let mut page = Page::new(StateFormat::Affine8, 8).unwrap();
        page.write(0, &[1.0; 8], &[2.0; 8]);
        let mut other = page.clone();
        assert_eq!(page.address(), other.address());
        other.unshare().unwrap();
        assert_ne!(page.address(), other.address());
        other.write(0, &[3.0; 8], &[4.0; 8]);
        let (mut key, mut value) = ([0.0; 8], [0.0; 8]);
        page.read(0, &mut key, &mut value);
        assert_eq!((key, value), ([1.0; 8], [2.0; 8]));
    }
}
