//! A number that tells weights apart, so that a state made with one model is not restored into another.

use std::ops::Range;

use super::Weights;
use super::error::WeightsError;

/// Bytes of each sample of a tensor.
const SAMPLE: usize = 64;
/// Samples of a tensor: its first bytes, its last, and evenly between.
const SAMPLES: usize = 4;

impl Weights {
    /// A fingerprint of the weights: the same for the same tensors whatever files they lie in, and
    /// another one as good as surely if a name, a dtype, a shape or any sampled byte differs.
    ///
    /// FNV-1a (Fowler, Noll and Vo; 64 bits) over the tensors in order of their names: the
    /// name, the dtype, the shape and four samples of 64 bytes, the first and the last included. It
    /// reads at most four pages of a tensor, so it is cheap, and it does **not** see a change between the
    /// samples. Two trained models differ nearly everywhere, so that tells them apart. It is no
    /// cryptographic hash: who wants two checkpoints with one fingerprint can make them.
    ///
    /// The value is part of the format of saved states: to change the computation is to refuse them.
    ///
    /// # Errors
    /// [`WeightsError::Shrunk`] when a file was cut short since it was opened; when one can't be read.
    pub fn fingerprint(&self) -> Result<u64, WeightsError> {
        self.check_unchanged()?;
        let mut hash = Fnv1a::new();
        for entry in &self.entries {
            // Lengths go first, so that no two lists of tensors give the same run of bytes.
            hash.write_u64(entry.name.len() as u64);
            hash.write(entry.name.as_bytes());
            let dtype = entry.dtype.to_string();
            hash.write_u64(dtype.len() as u64);
            hash.write(dtype.as_bytes());
            hash.write_u64(entry.shape.len() as u64);
            entry.shape.iter().for_each(|&dim| hash.write_u64(dim as u64));
            let Some(part) = self.parts.get(entry.part as usize) else { continue };
            for sample in samples(entry.range.len()) {
                let start = entry.range.start;
                hash.write(&part.read(start + sample.start..start + sample.end)?);
            }
        }
        Ok(hash.0)
    }
}

/// All of `bytes` bytes if that is no more than the samples would be, else the samples.
fn samples(bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let (count, len) = if bytes <= SAMPLES * SAMPLE { (1, bytes) } else { (SAMPLES, SAMPLE) };
    let last = bytes - len;
    (0..count).map(move |i| {
        // Divided first, so that no size overflows; the last sample is put where the bytes end.
        let start = if i + 1 == count { last } else { last / (SAMPLES - 1) * i };
        start..start + len
    })
}

/// FNV-1a with 64 bits.
struct Fnv1a(u64);

impl Fnv1a {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_gives_the_published_values() {
        let hash = |text: &str| {
            let mut hash = Fnv1a::new();
            hash.write(text.as_bytes());
            hash.0
        };
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn samples_hold_the_first_and_the_last_byte_and_lie_apart() {
        for len in [0, 1, 64, 255, 256, 257, 300, 1000, 4097] {
            let found: Vec<_> = samples(len).collect();
            assert_eq!(found.first().unwrap().start, 0, "{len}");
            assert_eq!(found.last().unwrap().end, len, "{len}");
            assert!(found.is_sorted_by(|a, b| a.end <= b.start), "{len}: samples overlap");
        }
    }
}
