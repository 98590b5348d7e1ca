//! [`Codes`] with AVX2: products of unsigned and signed bytes by `vpmaddubsw`. Its 16-bit sums of
//! pairs saturate, so codes of more than seven bits are split in two parts.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::codes::{Codes, Windows, padded};

// SAFETY (all blocks below): the token proves that the instructions exist; loads and stores go through
// arrays of exactly the vector's size and need no alignment.
#[inline(always)]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: see above.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Spreads the first `2 * BITS` bytes of each 16-byte lane, which hold sixteen codes.
#[inline(always)]
fn spread<const BITS: usize>(bytes: __m256i) -> __m256i {
    // SAFETY: see above.
    unsafe {
        let table =
            |pairs: &[u8; 16]| _mm256_broadcastsi128_si256(_mm_loadu_si128(pairs.as_ptr().cast()));
        // A factor of 2^(16 - BITS - below) moves the code to the top of its 16 bits.
        let top = const {
            let mut factors = [0i16; 8];
            let mut code = 0;
            while code < 8 {
                factors[code] = (1u16 << (16 - BITS as i16 - Windows::<BITS>::BELOW[code])) as i16;
                code += 1;
            }
            factors
        };
        let top = _mm256_broadcastsi128_si256(_mm_loadu_si128(top.as_ptr().cast()));
        let down = _mm_cvtsi32_si128(16 - BITS as i32);
        let codes = |pairs| {
            let windows = _mm256_shuffle_epi8(bytes, table(pairs));
            _mm256_srl_epi16(_mm256_mullo_epi16(windows, top), down)
        };
        _mm256_packus_epi16(codes(&Windows::<BITS>::PAIRS), codes(&Windows::<BITS>::NEXT_PAIRS))
    }
}

#[inline(always)]
fn dot<const SMALL: bool>(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    // SAFETY: see above.
    unsafe {
        if SMALL {
            let pairs = _mm256_maddubs_epi16(codes, x);
            return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
        // 127 * 127 * 2 and 127 * 2 fit in 16 bits.
        let low = _mm256_maddubs_epi16(_mm256_and_si256(codes, _mm256_set1_epi8(127)), x);
        let bit = _mm256_and_si256(_mm256_srli_epi16::<7>(codes), _mm256_set1_epi8(1));
        let high = _mm256_maddubs_epi16(bit, x);
        let low = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
        let high = _mm256_madd_epi16(high, _mm256_set1_epi16(128));
        _mm256_add_epi32(sums, _mm256_add_epi32(low, high))
    }
}

impl Codes for Avx2 {
    const COUNT: usize = 32;
    type Bytes = __m256i;
    type Sums = __m256i;
    type Signed = [i8; 32];

    #[inline(always)]
    fn signed(x: &[i8]) -> &[[i8; 32]] {
        x.as_chunks().0
    }
    #[inline(always)]
    fn unpack<const BITS: usize>(self, packed: &[u8]) -> __m256i {
        if BITS == 8 {
            return load(&padded(packed));
        }
        // SAFETY: see above.
        unsafe {
            if BITS == 4 {
                let bytes: [u8; 16] = padded(packed);
                let words = _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.as_ptr().cast()));
                let both = _mm256_or_si256(words, _mm256_slli_epi16::<4>(words));
                return _mm256_and_si256(both, _mm256_set1_epi8(15));
            }
            // Each lane loads 16 bytes starting at its codes, or from a copy if the row ends before
            // that.
            let copy: [u8; 32];
            let bytes = if packed.len() < 16 + 2 * BITS {
                copy = padded(packed);
                &copy[..]
            } else {
                packed
            };
            let (first, second): ([u8; 16], [u8; 16]) =
                (padded(bytes), padded(&bytes[2 * BITS..16 + 2 * BITS]));
            let first = _mm_loadu_si128(first.as_ptr().cast());
            let second = _mm_loadu_si128(second.as_ptr().cast());
            spread::<BITS>(_mm256_set_m128i(second, first))
        }
    }
    #[inline(always)]
    fn look_up(self, codes: __m256i, table: &[u8; 16]) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, codes)
        }
    }
    #[inline(always)]
    fn store_codes(self, codes: __m256i, out: &mut [u8]) {
        let out = &mut out[..32];
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), codes) }
    }
    #[inline(always)]
    fn load_codes(self, codes: &[u8]) -> __m256i {
        load(&padded(codes))
    }
    #[inline(always)]
    fn no_sums(self) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: __m256i, codes: __m256i, x: &[i8; 32]) -> __m256i {
        // SAFETY: see above.
        dot::<SMALL>(sums, codes, unsafe { _mm256_loadu_si256(x.as_ptr().cast()) })
    }
    #[inline(always)]
    fn dot_splat<const SMALL: bool>(self, sums: __m256i, codes: __m256i, x: i32) -> __m256i {
        // SAFETY: see above.
        dot::<SMALL>(sums, codes, unsafe { _mm256_set1_epi32(x) })
    }
}
