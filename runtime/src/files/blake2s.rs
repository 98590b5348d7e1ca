//! BLAKE2s with 256 bits (Saarinen and Aumasson, RFC 7693, 2015): a cryptographic hash.
//!
//! It identifies data that an adversary may have chosen. Of the hashes that resist collisions it
//! needs the least code, and it is faster than SHA-256 on processors without instructions for that.
//! It has no key, so its values can be written to files.

/// A hash: the standard's bytes as little-endian words.
pub(crate) type Digest = [u32; 8];

const BLOCK: usize = 64;

/// The initial state, the same as that of SHA-256.
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The order of a block's words in each round.
const ORDER: [[usize; 16]; 10] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];

/// Indices of the state words that are mixed together: columns, then diagonals.
const MIXED: [[usize; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];

/// An incremental hash.
pub(crate) struct Blake2s {
    state: Digest,
    /// Number of bytes compressed into `state`.
    taken: u64,
    /// The current block. It is compressed only when more bytes follow, since the last block is
    /// marked.
    block: [u8; BLOCK],
    filled: usize,
}

impl Blake2s {
    pub(crate) fn new() -> Self {
        let mut state = INITIAL;
        // The parameters: a digest of 32 bytes, no key, no tree.
        state[0] ^= 0x0101_0020;
        Self { state, taken: 0, block: [0; BLOCK], filled: 0 }
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == BLOCK {
                self.taken += BLOCK as u64;
                self.compress(false);
                self.filled = 0;
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.block[self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
        }
    }

    /// Adds the little-endian bytes of the words.
    pub(crate) fn write_words(&mut self, words: &[u32]) {
        if cfg!(target_endian = "little") {
            self.write(bytemuck::cast_slice(words));
        } else {
            words.iter().for_each(|word| self.write(&word.to_le_bytes()));
        }
    }

    pub(crate) fn finish(mut self) -> Digest {
        self.taken += self.filled as u64;
        self.block[self.filled..].fill(0);
        self.compress(true);
        self.state
    }

    fn compress(&mut self, last: bool) {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(self.block.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let mut v = [0; 16];
        v[..8].copy_from_slice(&self.state);
        v[8..].copy_from_slice(&INITIAL);
        v[12] ^= self.taken as u32;
        v[13] ^= (self.taken >> 32) as u32;
        v[14] ^= if last { u32::MAX } else { 0 };
        for order in &ORDER {
            for (i, &[a, b, c, d]) in MIXED.iter().enumerate() {
                v[a] = v[a].wrapping_add(v[b]).wrapping_add(words[order[2 * i]]);
                v[d] = (v[d] ^ v[a]).rotate_right(16);
                v[c] = v[c].wrapping_add(v[d]);
                v[b] = (v[b] ^ v[c]).rotate_right(12);
                v[a] = v[a].wrapping_add(v[b]).wrapping_add(words[order[2 * i + 1]]);
                v[d] = (v[d] ^ v[a]).rotate_right(8);
                v[c] = v[c].wrapping_add(v[d]);
                v[b] = (v[b] ^ v[c]).rotate_right(7);
            }
        }
        for (i, word) in self.state.iter_mut().enumerate() {
            *word ^= v[i] ^ v[i + 8];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(pieces: &[&[u8]]) -> String {
        let mut hash = Blake2s::new();
        pieces.iter().for_each(|piece| hash.write(piece));
        hash.finish().iter().map(|word| format!("{:08x}", word.swap_bytes())).collect()
    }

    /// "abc" is the RFC's example; the other values come from Python's `hashlib.blake2s`.
    #[test]
    fn it_gives_the_published_values() {
        assert_eq!(
            hex(&[b"abc"]),
            "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
        );
        let bytes: Vec<u8> = (0..1000).map(|i| i as u8).collect();
        for (len, expected) in [
            (0, "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9"),
            (1, "e34d74dbaf4ff4c6abd871cc220451d2ea2648846c7757fbaac82fe51ad64bea"),
            (63, "e57cb79487dd57902432b250733813bd96a84efce59f650fac26e6696aefafc3"),
            (64, "56f34e8b96557e90c1f24b52d0c89d51086acf1b00f634cf1dde9233b8eaaa3e"),
            (65, "1b53ee94aaf34e4b159d48de352c7f0661d0a40edff95a0b1639b4090e974472"),
            (128, "1fa877de67259d19863a2a34bcc6962a2b25fcbf5cbecd7ede8f1fa36688a796"),
            (256, "5fdeb59f681d975f52c8e69c5502e02a12a3afcc5836ba58f42784c439228781"),
            (1000, "b5f9d7799111edafc9326fbf667be98140b5e20ce5e151793c59125bf654ac18"),
        ] {
            assert_eq!(hex(&[&bytes[..len]]), expected, "{len} bytes");
            let (first, second) = bytes[..len].split_at(len / 3);
            assert_eq!(hex(&[first, b"", second]), expected, "{len} bytes in pieces");
        }
    }

    #[test]
    fn words_are_their_little_endian_bytes() {
        let mut words = Blake2s::new();
        words.write_words(&[0x0302_0100, 0x0706_0504]);
        let mut bytes = Blake2s::new();
        bytes.write(&[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(words.finish(), bytes.finish());
    }
}
