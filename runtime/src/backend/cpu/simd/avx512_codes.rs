//! [`Codes`] with AVX-512: by VNNI and VBMI if available (Ice Lake, Zen 4 and later), otherwise in
//! halves with AVX2.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::avx512::Avx512;
use super::codes::{Codes, padded};

/// For each eight codes of `BITS` bits: the indices of their bytes, and the position of each code
/// in them.
struct Spread<const BITS: usize>;

impl<const BITS: usize> Spread<BITS> {
    const BYTES: [u8; 64] = {
        let mut index = [0; 64];
        let mut i = 0;
        while i < 64 {
            index[i] = (i / 8 * BITS + i % 8) as u8;
            i += 1;
        }
        index
    };
    const BEGIN: [u8; 64] = {
        let mut begin = [0; 64];
        let mut i = 0;
        while i < 64 {
            begin[i] = (i % 8 * BITS) as u8;
            i += 1;
        }
        begin
    };
}

// SAFETY (all blocks below): the token proves that the instructions exist; loads and stores go through
// arrays of exactly the vector's size and need no alignment; masked loads touch only the slice's own bytes.
#[inline(always)]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: see above.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

impl Codes for Avx512<true> {
    const COUNT: usize = 64;
    type Bytes = __m512i;
    type Sums = __m512i;
    type Signed = [i8; 64];

    #[inline(always)]
    fn signed(x: &[i8]) -> &[[i8; 64]] {
        x.as_chunks().0
    }
    #[inline(always)]
    fn unpack<const BITS: usize>(self, packed: &[u8]) -> __m512i {
        if BITS == 8 {
            return load(&padded(packed));
        }
        // SAFETY: see above.
        unsafe {
            let len = packed.len().min(8 * BITS);
            let bytes = _mm512_maskz_loadu_epi8((1u64 << len) - 1, packed.as_ptr().cast());
            let eights = _mm512_permutexvar_epi8(load(&Spread::<BITS>::BYTES), bytes);
            let codes = _mm512_multishift_epi64_epi8(load(&Spread::<BITS>::BEGIN), eights);
            _mm512_and_si512(codes, _mm512_set1_epi8((1i32 << BITS) as i8 - 1))
        }
    }
    #[inline(always)]
    fn look_up(self, codes: __m512i, table: &[u8; 16]) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, codes)
        }
    }
    #[inline(always)]
    fn store_codes(self, codes: __m512i, out: &mut [u8]) {
        let out = &mut out[..64];
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), codes) }
    }
    #[inline(always)]
    fn load_codes(self, codes: &[u8]) -> __m512i {
        load(&padded(codes))
    }
    #[inline(always)]
    fn no_sums(self) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: __m512i, codes: __m512i, x: &[i8; 64]) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(sums, codes, _mm512_loadu_si512(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn dot_splat<const SMALL: bool>(self, sums: __m512i, codes: __m512i, x: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(x)) }
    }
}

impl Codes for Avx512<false> {
    const COUNT: usize = 64;
    type Bytes = [__m256i; 2];
    type Sums = __m512i;
    type Signed = [i8; 64];

    #[inline(always)]
    fn signed(x: &[i8]) -> &[[i8; 64]] {
        x.as_chunks().0
    }
    #[inline(always)]
    fn unpack<const BITS: usize>(self, packed: &[u8]) -> [__m256i; 2] {
        let rest = packed.get(4 * BITS..).unwrap_or_default();
        [self.half().unpack::<BITS>(packed), self.half().unpack::<BITS>(rest)]
    }
    #[inline(always)]
    fn look_up(self, codes: [__m256i; 2], table: &[u8; 16]) -> [__m256i; 2] {
        codes.map(|codes| self.half().look_up(codes, table))
    }
    #[inline(always)]
    fn store_codes(self, codes: [__m256i; 2], out: &mut [u8]) {
        self.half().store_codes(codes[0], out);
        self.half().store_codes(codes[1], &mut out[32..]);
    }
    #[inline(always)]
    fn load_codes(self, codes: &[u8]) -> [__m256i; 2] {
        let rest = codes.get(32..).unwrap_or_default();
        [self.half().load_codes(codes), self.half().load_codes(rest)]
    }
    #[inline(always)]
    fn no_sums(self) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: __m512i, codes: [__m256i; 2], x: &[i8; 64]) -> __m512i {
        let (halves, half) = (x.as_chunks::<32>().0, self.half());
        let products = |i: usize| half.dot::<SMALL>(half.no_sums(), codes[i], &halves[i]);
        // SAFETY: see above.
        unsafe {
            let low = _mm512_castsi256_si512(products(0));
            _mm512_add_epi32(sums, _mm512_inserti64x4::<1>(low, products(1)))
        }
    }
    #[inline(always)]
    fn dot_splat<const SMALL: bool>(self, sums: __m512i, codes: [__m256i; 2], x: i32) -> __m512i {
        let half = self.half();
        let products = |i: usize| half.dot_splat::<SMALL>(half.no_sums(), codes[i], x);
        // SAFETY: see above.
        unsafe {
            let low = _mm512_castsi256_si512(products(0));
            _mm512_add_epi32(sums, _mm512_inserti64x4::<1>(low, products(1)))
        }
    }
}

impl Avx512<false> {
    /// AVX-512 includes AVX2.
    #[inline(always)]
    fn half(self) -> Avx2 {
        Avx2::of_avx512(self)
    }
}
