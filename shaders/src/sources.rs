//! The hash of the WGSL files, computed at compile time.

use super::generated::FILES;

/// FNV-1a over names and texts.
const fn hash() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut file = 0;
    while file < FILES.len() {
        hash = add(hash, FILES[file].0.as_bytes());
        hash = add(hash, FILES[file].1.as_bytes());
        file += 1;
    }
    hash
}

const fn add(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    // Separates texts, so that the end of one can't count as the beginning of the next.
    (hash ^ 0xff).wrapping_mul(0x0000_0100_0000_01b3)
}

#[allow(long_running_const_eval)]
const HASH: u64 = hash();

/// Whether the files have the given hash, written in 16 hexadecimal digits.
pub(crate) const fn is(hexadecimal: &str) -> bool {
    let digits = hexadecimal.as_bytes();
    let mut index = 0;
    while index < digits.len() {
        let digit = (HASH >> (60 - 4 * index)) as u8 & 15;
        let written = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        if digits[index] != written {
            return false;
        }
        index += 1;
    }
    digits.len() == 16
}
