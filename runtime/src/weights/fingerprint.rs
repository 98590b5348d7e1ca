//! A number that tells weights apart, so that the state of one model is not restored into another.

use std::ops::Range;

use super::Weights;
use super::error::WeightsError;
use crate::files::fnv1a::Fnv1a;

/// Size of one sample of a tensor, in bytes.
const SAMPLE: usize = 64;
/// Samples per tensor: its first bytes, its last, and evenly in between.
const SAMPLES: usize = 4;

impl Weights {
    /// A fingerprint of the weights. It is the same for the same tensors however they are
    /// distributed over files, and differs almost certainly if a name, a dtype, a shape or any
    /// sampled byte differs.
    ///
    /// This is FNV-1a over the tensors in order of their names: the name, the dtype, the shape and
    /// four samples of 64 bytes, including the first and the last. It reads at most four pages of a
    /// tensor, so it is cheap, but it does **not** see changes between the samples. Two trained
    /// models differ nearly everywhere, so that suffices. It is not a cryptographic hash: anyone
    /// can construct two checkpoints with the same fingerprint.
    ///
    /// The value is part of the format of saved states, so changing the computation invalidates
    /// them.
    ///
    /// # Errors
    /// [`WeightsError::Shrunk`] if a file was truncated after it was opened; if a file can't be
    /// read.
    pub fn fingerprint(&self) -> Result<u64, WeightsError> {
        self.check_unchanged()?;
        let mut hash = Fnv1a::new();
        for entry in &self.entries {
            // Hashing lengths first keeps different lists of tensors apart.
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

/// The ranges of the samples, or one range for all of the tensor if it is small.
fn samples(bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let (count, len) = if bytes <= SAMPLES * SAMPLE { (1, bytes) } else { (SAMPLES, SAMPLE) };
    let last = bytes - len;
    (0..count).map(move |i| {
        // Divide first, so that nothing overflows. The last sample ends where the bytes end.
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
