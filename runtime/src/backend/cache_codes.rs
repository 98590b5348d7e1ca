//! How keys and values are quantized: [`CACHE_GROUP`](crate::plan::CACHE_GROUP) elements share a
//! scale and a bias, `x = scale * code + bias`.
//!
//! Codes are made position by position when keys and values join the cache, so they don't depend on
//! how the tokens were fed. They are the same on every backend, so a session can move to another
//! one. Decoding and encoding again gives the same codes, except rarely where a value lies on the
//! boundary between two codes.

use half::f16;

use crate::plan::{CACHE_GROUP as GROUP, StateFormat};

/// Bits of a code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    Four,
    Eight,
}

impl Bits {
    /// Code size of a quantized cache; `None` for other formats.
    pub(crate) fn of(format: StateFormat) -> Option<Self> {
        match format {
            StateFormat::F32 | StateFormat::F16 => None,
            StateFormat::Affine8 => Some(Self::Eight),
            StateFormat::Affine4 => Some(Self::Four),
        }
    }

    /// Bytes of one group's codes.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Four => GROUP / 2,
            Self::Eight => GROUP,
        }
    }

    /// The largest code.
    pub(crate) fn most(self) -> f32 {
        match self {
            Self::Four => 15.0,
            Self::Eight => 255.0,
        }
    }
}

/// Encodes one group as scale, bias and codes. A partial group is padded with its first element.
pub(crate) fn encode(bits: Bits, values: &[f32]) -> (f16, f16, [u8; GROUP]) {
    let first = values.first().copied().unwrap_or(0.0);
    let (low, high) = values.iter().fold((first, first), |(a, b), &x| (a.min(x), b.max(x)));
    let finite = |x: f32| f16::from_f32(x.clamp(-f16::MAX.to_f32(), f16::MAX.to_f32()));
    let bias = finite(low);
    let scale = finite((high - bias.to_f32()).max(0.0) / bits.most());
    let inverse = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
    let mut codes = [0; GROUP];
    for (code, &x) in codes.iter_mut().zip(values) {
        // NaN becomes code 0; the NaN is reported where it arises.
        *code = ((x - bias.to_f32()) * inverse + 0.5).floor().clamp(0.0, bits.most()) as u8;
    }
    (scale, bias, codes)
}

/// Packs `[rows, width]` into words. A group is one word with the scale in the low half and the
/// bias in the high half, followed by its codes, the first in the lowest bits. The missing elements
/// of a row's last group have code 0.
#[cfg(feature = "wgpu")]
pub(crate) fn to_words(bits: Bits, values: &[f32], width: usize) -> Vec<u32> {
    let mut words = Vec::new();
    for group in values.chunks(width.max(1)).flat_map(|row| row.chunks(GROUP)) {
        let (scale, bias, codes) = encode(bits, group);
        words.push(u32::from(scale.to_bits()) | u32::from(bias.to_bits()) << 16);
        match bits {
            Bits::Eight => words.extend(codes.as_chunks().0.iter().map(|c| u32::from_le_bytes(*c))),
            Bits::Four => words.extend(codes.chunks(8).map(|codes| {
                codes.iter().rev().fold(0, |word, code| word << 4 | u32::from(*code))
            })),
        }
    }
    words
}

/// Decodes what [`to_words`] packed.
#[cfg(feature = "wgpu")]
pub(crate) fn from_words(bits: Bits, words: &[u32], width: usize) -> Vec<f32> {
    let (of_group, each) = (1 + bits.bytes() / 4, GROUP / (bits.bytes() / 4));
    let groups = width.div_ceil(GROUP).max(1);
    let mut values = Vec::new();
    for row in words.chunks_exact(groups * of_group) {
        for (index, group) in row.chunks_exact(of_group).enumerate() {
            let [first, codes @ ..] = group else { continue };
            let [scale, bias] = [*first as u16, (*first >> 16) as u16].map(f16::from_bits);
            let own = GROUP.min(width - index * GROUP);
            let shift = 32 / each;
            let all = codes.iter().flat_map(|word| {
                (0..each).map(move |i| word >> (i * shift) & (bits.most() as u32))
            });
            let number = |code: u32| scale.to_f32() * code as f32 + bias.to_f32();
            values.extend(all.take(own).map(number));
        }
    }
    values
}

#[cfg(all(test, feature = "wgpu"))]
mod tests {
    use super::*;

    #[test]
    fn words_hold_what_is_encoded_and_encode_to_themselves() {
        for bits in [Bits::Four, Bits::Eight] {
            for width in [1, 7, 32, 40, 96] {
                let number = |i: usize| ((i * 37 % 101) as f32 - 50.0) * 0.37;
                let values: Vec<f32> = (0..3 * width).map(number).collect();
                let words = to_words(bits, &values, width);
                assert_eq!(words.len(), 3 * width.div_ceil(GROUP) * (1 + bits.bytes() / 4));
                let near = from_words(bits, &words, width);
                assert_eq!(near.len(), values.len());
                for (a, b) in near.iter().zip(&values) {
                    assert!((a - b).abs() <= 37.0 * (0.5 / bits.most() + 1.0 / 1024.0), "{a} {b}");
                }
                assert_eq!(to_words(bits, &near, width), words);
            }
        }
    }
}
