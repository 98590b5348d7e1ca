//! A number that tells weights apart, so that a state made with one model is not restored into another.

use std::ops::Range;

use super::Weights;
use super::error::WeightsError;
use crate::files::fnv1a::Fnv1a;

/// Bytes of each sample of a tensor.
const SAMPLE: usize = 64;
/// Samples of a tensor: its first bytes, its last, and evenly between.
const SAMPLES: usize = 4;

impl Weights {
    /// A fingerprint of the weights: the same for the same tensors whatever files they lie in, and
    /// another one as good as surely if a name, a dtype, a shape or any sampled byte differs.
    ///
    /// FNV-1a over the tensors in order of their names: the
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
        Ok(hash.finish())
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

#[cfg(test)]
mod tests {
    use super::*;

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
