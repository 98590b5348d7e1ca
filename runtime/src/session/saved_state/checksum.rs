//! A checksum that detects accidental damage. Fast enough to be negligible beside the disk, and no
//! protection against tampering.

const PRIME: u64 = 0x0000_0100_0000_01b3;
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// A hash of tensors in the order in which they were added.
pub(super) struct Checksum(u64);

impl Checksum {
    pub(super) fn new() -> Self {
        Self(BASIS)
    }

    /// Adds a tensor, or any other named bytes.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) {
        for part in [name.as_bytes(), bytes] {
            // Hashing the lengths too keeps different lists of parts apart.
            self.mix(part.len() as u64);
            self.mix(hash(part));
        }
    }

    fn mix(&mut self, word: u64) {
        self.0 = step(self.0, word);
    }

    pub(super) fn value(&self) -> u64 {
        self.0
    }
}

/// The step of FNV-1a on a word, and a rotation, so that high bits reach low ones.
fn step(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(PRIME).rotate_left(29)
}

/// Four interleaved hashes, each over every fourth word: a single one would wait for its own
/// multiplications.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [BASIS, BASIS + 1, BASIS + 2, BASIS + 3];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    let tail = rest.iter().fold(BASIS, |hash, &byte| step(hash, u64::from(byte)));
    lanes.into_iter().fold(tail, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_every_byte_counts() {
        for len in [1, 8, 31, 32, 33, 64, 100] {
            let mut bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let whole = hash(&bytes);
            for at in 0..len {
                for bit in 0..8 {
                    bytes[at] ^= 1 << bit;
                    assert_ne!(hash(&bytes), whole, "{len} bytes, bit {bit} of {at}");
                    bytes[at] ^= 1 << bit;
                }
            }
            bytes.push(0);
            assert_ne!(hash(&bytes), whole);
        }
    }

    #[test]
    fn names_and_bounds_count() {
        let of = |parts: &[(&str, &[u8])]| {
            let mut sum = Checksum::new();
            parts.iter().for_each(|(name, bytes)| sum.add(name, bytes));
            sum.value()
        };
        let all = [
            of(&[]),
            of(&[("a", b"xy")]),
            of(&[("b", b"xy")]),
            of(&[("ax", b"y")]),
            of(&[("a", b"x"), ("a", b"y")]),
            of(&[("a", b"y"), ("a", b"x")]),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{i}");
        }
    }
}
