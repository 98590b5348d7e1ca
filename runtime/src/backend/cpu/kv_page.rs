//! A page of a key/value cache: [`PAGE`] positions of one head, plain or quantized.
//!
//! Plain: keys as `[key_dim, PAGE]`, so that the scores of a page are one product with positions
//! along the vector, then values as `[PAGE, value_dim]`. Where values are elements of the keys
//! (a latent), the page has keys alone, and values are transposed for reading. Quantized: every [`CACHE_GROUP`] elements
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

/// What a page holds of a position of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageShape {
    /// Width of a key.
    pub key: usize,
    /// Width of a value that is stored; 0 for none.
    pub value: usize,
}

/// Shared until it is written to.
#[derive(Clone)]
pub(super) enum Page {
    /// Keys `[key_dim, PAGE]`, values `[PAGE, value_dim]`.
    Plain(Arc<Vec<f32>>),
    Packed(Arc<Packed>),
}

/// Codes of keys and values.
#[derive(Clone)]
pub(super) struct Packed {
    bits: Bits,
    /// Groups in a position's key, and in its value.
    groups: [usize; 2],
    /// Keys: `[groups, 2, PAGE]`, scales and biases. Values: `[PAGE, groups, 2]`.
    scales: Vec<f16>,
    /// Keys: `[groups, bytes of a group, PAGE]`. Values: `[PAGE, groups, bytes of a group]`. If a
    /// byte holds two codes, the one in the low bits is from the first half of the group, and the
    /// other from the same place in the second half.
    codes: Vec<u8>,
}

impl Page {
    /// Creates a page of zeros.
    pub(super) fn new(format: StateFormat, shape: PageShape) -> Result<Self, Error> {
        let PageShape { key, value } = shape;
        let Some(bits) = Bits::of(format) else {
            let mut page = Vec::new();
            grow(&mut page, (key + value) * PAGE, WHAT)?;
            return Ok(Self::Plain(Arc::new(page)));
        };
        let groups = [key, value].map(|width| width.div_ceil(GROUP));
        let mut scales = Vec::new();
        let mut codes = Vec::new();
        let all = (groups[0] + groups[1]) * PAGE;
        let (scales_len, codes_len) = (2 * all, all * bits.bytes());
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
                key.iter_mut().enumerate().for_each(|(i, k)| *k = page.key(slot, i));
                value.iter_mut().enumerate().for_each(|(i, v)| *v = page.value(slot, i));
            }
        }
    }

    /// Keys `[key_dim, PAGE]` and values `[PAGE, value_dim]`, unpacked into `scratch` if necessary.
    /// If the page holds no values, they are the first `value_dim` elements of the keys. `scratch`
    /// must have [`Self::scratch`] elements.
    pub(super) fn unpacked<'a>(
        &'a self,
        isa: Isa,
        shape: PageShape,
        value_dim: usize,
        scratch: &'a mut [f32],
    ) -> (&'a [f32], &'a [f32]) {
        let own = shape.value > 0;
        match self {
            Self::Plain(page) if own => page.split_at(shape.key * PAGE),
            Self::Plain(page) => {
                isa.dispatch(Transpose { keys: page, values: scratch, value_dim });
                (page, scratch)
            }
            Self::Packed(page) => {
                let (keys, values) = scratch.split_at_mut(shape.key * PAGE);
                let stored = if own { &mut *values } else { &mut [] };
                isa.dispatch(Unpack { page, keys, values: stored });
                if !own {
                    isa.dispatch(Transpose { keys, values, value_dim });
                }
                (keys, values)
            }
        }
    }

    /// Elements of scratch memory that [`Self::unpacked`] needs.
    pub(super) fn scratch(format: StateFormat, shape: PageShape, value_dim: usize) -> usize {
        let keys = if Bits::of(format).is_some() { shape.key } else { 0 };
        let values = if keys > 0 || shape.value == 0 { value_dim } else { 0 };
        (keys + values) * PAGE
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
        let [key_groups, value_groups] = *groups;
        let (key_scales, value_scales) = scales.split_at_mut(2 * key_groups * PAGE);
        let (key_codes, value_codes) = codes.split_at_mut(key_groups * bytes * PAGE);
        for (group, key) in key.chunks(GROUP).enumerate() {
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
        }
        for (group, value) in value.chunks(GROUP).enumerate() {
            let (scale, bias, own) = encode(*bits, value);
            let at = slot * value_groups + group;
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

    /// Element `i` of the key of the position in `slot`.
    fn key(&self, slot: usize, i: usize) -> f32 {
        let (group, (byte, shift)) = (i / GROUP, self.place(i));
        let at = (group * self.bits.bytes() + byte) * PAGE + slot;
        self.number(at, shift, [2 * group * PAGE + slot, (2 * group + 1) * PAGE + slot])
    }

    /// Element `i` of the value of the position in `slot`.
    fn value(&self, slot: usize, i: usize) -> f32 {
        let ([keys, values], bytes) = (self.groups, self.bits.bytes());
        let (at, (byte, shift)) = (slot * values + i / GROUP, self.place(i));
        let scale = 2 * keys * PAGE + 2 * at;
        self.number(keys * bytes * PAGE + at * bytes + byte, shift, [scale, scale + 1])
    }

    /// The byte of its group that holds the code of element `i`, and the code's lowest bit.
    fn place(&self, i: usize) -> (usize, usize) {
        let i = i % GROUP;
        match self.bits {
            Bits::Eight => (i, 0),
            Bits::Four => (i % (GROUP / 2), i / (GROUP / 2) * 4),
        }
    }

    fn number(&self, at: usize, shift: usize, [scale, bias]: [usize; 2]) -> f32 {
        let code = f32::from(self.codes[at] >> shift & self.bits.most() as u8);
        code * self.scales[scale].to_f32() + self.scales[bias].to_f32()
    }
}

/// The first `value_dim` elements of keys `[.., PAGE]` as values `[PAGE, value_dim]`.
struct Transpose<'a> {
    keys: &'a [f32],
    values: &'a mut [f32],
    value_dim: usize,
}

impl Kernel for Transpose<'_> {
    type Output = ();
    /// In blocks of eight rows and eight columns, which are whole lines of the cache on both sides.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        const SIDE: usize = 8;
        let Self { keys, values, value_dim } = self;
        let rows = &keys.as_chunks::<PAGE>().0[..value_dim];
        for (block, rows) in rows.chunks(SIDE).enumerate() {
            let first = block * SIDE;
            for slots in (0..PAGE).step_by(SIDE) {
                for slot in slots..slots + SIDE {
                    let out = &mut values[slot * value_dim + first..][..rows.len()];
                    out.iter_mut().zip(rows).for_each(|(out, row)| *out = row[slot]);
                }
            }
        }
    }
}

/// Unpacks a page.
struct Unpack<'a> {
    page: &'a Packed,
    /// `[key_dim, PAGE]`.
    keys: &'a mut [f32],
    /// `[PAGE, value_dim]`.
    values: &'a mut [f32],
}

impl Kernel for Unpack<'_> {
    type Output = ();
    /// Plain loops of known length, which the compiler vectorizes for the current instruction set.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Packed { bits, groups, scales, codes } = self.page;
        let (bytes, dim, [groups, value_groups]) =
            (bits.bytes(), self.values.len() / PAGE, *groups);
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
                let at = slot * value_groups + group;
                if group % wide.len() == 0 {
                    let own =
                        &value_scales[2 * at..2 * (at + wide.len().min(value_groups - group))];
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
                let (value_dim, shape) = (dim + 3, PageShape { key: dim, value: dim + 3 });
                let mut page = Page::new(format, shape).unwrap();
                let bytes = |width| format.bytes(PAGE, width);
                assert_eq!(page.bytes(), bytes(dim) + bytes(value_dim));
                for slot in 0..PAGE {
                    let key: Vec<f32> = (0..dim).map(|i| number(slot * dim + i)).collect();
                    let value: Vec<f32> =
                        (0..value_dim).map(|i| number(7 * slot * dim + i)).collect();
                    page.write(slot, &key, &value);
                }
                let mut scratch = vec![f32::NAN; Page::scratch(format, shape, value_dim)];
                let (keys, values) = page.unpacked(Isa::detect(), shape, value_dim, &mut scratch);
                let (mut key, mut value) = (vec![0.0; dim], vec![0.0; value_dim]);
                // Half a code, and the f16 rounding of scale and bias.
                let bound = 61.0 * (0.5 / most + 1.0 / 1024.0);
                for slot in 0..PAGE {
                    page.read(slot, &mut key, &mut value);
                    for i in 0..dim {
                        assert!((keys[i * PAGE + slot] - key[i]).abs() <= 1e-6 * key[i].abs());
                        assert!((key[i] - number(slot * dim + i)).abs() <= bound);
                    }
                    for i in 0..value_dim {
                        let other = values[slot * value_dim + i];
                        assert!((other - value[i]).abs() <= 1e-6 * value[i].abs());
                        assert!((value[i] - number(7 * slot * dim + i)).abs() <= bound);
                    }
                }
            }
        }
    }

    #[test]
    fn values_of_a_latent_are_the_first_elements_of_its_keys() {
        for format in [StateFormat::F32, StateFormat::Affine8, StateFormat::Affine4] {
            for (dim, value_dim) in [(1, 1), (9, 8), (40, 33), (72, 64)] {
                let shape = PageShape { key: dim, value: 0 };
                let mut page = Page::new(format, shape).unwrap();
                assert_eq!(page.bytes(), format.bytes(PAGE, dim));
                for slot in 0..PAGE {
                    let key: Vec<f32> = (0..dim).map(|i| number(slot * dim + i)).collect();
                    page.write(slot, &key, &[]);
                }
                let mut scratch = vec![f32::NAN; Page::scratch(format, shape, value_dim)];
                let (keys, values) = page.unpacked(Isa::detect(), shape, value_dim, &mut scratch);
                assert_eq!((keys.len(), values.len()), (dim * PAGE, value_dim * PAGE));
                let mut key = vec![0.0; dim];
                for slot in 0..PAGE {
                    page.read(slot, &mut key, &mut []);
                    for i in 0..dim {
                        assert!((keys[i * PAGE + slot] - key[i]).abs() <= 1e-6 * key[i].abs());
                    }
                    for i in 0..value_dim {
                        assert_eq!(values[slot * value_dim + i], keys[i * PAGE + slot]);
                    }
                }
            }
        }
    }

    #[test]
    fn what_no_code_can_tell_stays_finite() {
        for values in [vec![7.0; 40], vec![0.0; 33], vec![1e9, -1e9, 0.0], vec![f32::NAN, 1.0]] {
            for format in [StateFormat::Affine8, StateFormat::Affine4] {
                let shape = PageShape { key: values.len(), value: values.len() };
                let mut page = Page::new(format, shape).unwrap();
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
        let mut page = Page::new(StateFormat::Affine8, PageShape { key: 8, value: 8 }).unwrap();
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
