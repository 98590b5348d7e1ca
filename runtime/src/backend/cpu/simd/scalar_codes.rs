//! [`Codes`] in plain Rust.

use super::codes::{Codes, padded};
use super::scalar::Scalar;

impl Codes for Scalar {
    const COUNT: usize = 32;
    type Bytes = [u8; 32];
    type Sums = [i32; 8];
    type Signed = [i8; 32];

    #[inline(always)]
    fn signed(x: &[i8]) -> &[[i8; 32]] {
        x.as_chunks().0
    }
    #[inline(always)]
    fn unpack<const BITS: usize>(self, packed: &[u8]) -> [u8; 32] {
        let (eights, mask) = (padded::<32>(packed), (1u64 << BITS) - 1);
        let mut codes = [0; 32];
        for (part, out) in eights.chunks_exact(BITS).zip(codes.chunks_exact_mut(8)) {
            let mut word = [0; 8];
            word[..BITS].copy_from_slice(part);
            let word = u64::from_le_bytes(word);
            for (i, out) in out.iter_mut().enumerate() {
                // The mask leaves at most 8 bits.
                *out = (word >> (i * BITS) & mask) as u8;
            }
        }
        codes
    }
    #[inline(always)]
    fn look_up(self, codes: [u8; 32], table: &[u8; 16]) -> [u8; 32] {
        codes.map(|code| table[usize::from(code & 15)])
    }
    #[inline(always)]
    fn store_codes(self, codes: [u8; 32], out: &mut [u8]) {
        out[..32].copy_from_slice(&codes);
    }
    #[inline(always)]
    fn load_codes(self, codes: &[u8]) -> [u8; 32] {
        padded(codes)
    }
    #[inline(always)]
    fn no_sums(self) -> [i32; 8] {
        [0; 8]
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: [i32; 8], codes: [u8; 32], x: &[i8; 32]) -> [i32; 8] {
        std::array::from_fn(|l| {
            let four = 4 * l..4 * l + 4;
            let products = codes[four.clone()].iter().zip(&x[four]);
            sums[l] + products.map(|(&q, &x)| i32::from(q) * i32::from(x)).sum::<i32>()
        })
    }
    #[inline(always)]
    fn dot_splat<const SMALL: bool>(self, sums: [i32; 8], codes: [u8; 32], x: i32) -> [i32; 8] {
        let four = x.to_le_bytes().map(|byte| byte as i8);
        let mut all = [0; 32];
        all.as_chunks_mut().0.iter_mut().for_each(|chunk| *chunk = four);
        self.dot::<SMALL>(sums, codes, &all)
    }
}
