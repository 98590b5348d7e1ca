//! A number that tells weights apart, so that a state made with one model is not restored into another.

use super::Weights;
use super::error::WeightsError;
use crate::fnv1a::Fnv1a;

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
    /// [`WeightsError::Shrunk`] when a file was cut short since it was opened.
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
            let part = self.parts.get(entry.part as usize);
            let bytes = part.and_then(|part| part.bytes().get(entry.range.clone()));
            samples(bytes.unwrap_or_default()).for_each(|sample| hash.write(sample));
        }
        Ok(hash.finish())
    }
}

/// All of `bytes` if that is no more than the samples would be, else the samples.
fn samples(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (count, len) =
        if bytes.len() <= SAMPLES * SAMPLE { (1, bytes.len()) } else { (SAMPLES, SAMPLE) };
    let last = bytes.len() - len;
    (0..count).map(move |i| {
        // Divided first, so that no size overflows; the last sample is put where the bytes end.
        let start = if i + 1 == count { last } else { last / (SAMPLES - 1) * i };
        bytes.get(start..start + len).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_hold_the_first_and_the_last_byte_and_lie_apart() {
        for len in [0, 1, 64, 255, 256, 257, 300, 1000, 4097] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let found: Vec<_> = samples(&bytes).map(|s| s.as_ptr_range()).collect();
            assert_eq!(found.first().unwrap().start, bytes.as_ptr_range().start, "{len}");
            assert_eq!(found.last().unwrap().end, bytes.as_ptr_range().end, "{len}");
            assert!(found.is_sorted_by(|a, b| a.end <= b.start), "{len}: samples overlap");
        }
    }
}
