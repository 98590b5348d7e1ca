//! [`Codes`] with WebAssembly's vectors: codes and activations are widened to 16 bits, and products
//! are summed in pairs.

use std::arch::wasm32::*;

use super::codes::{Codes, Windows, padded};
use super::wasm128::{Wasm128, load_half, load_whole};

/// Codes times activations: lane `l` sums the bytes `4 l..4 l + 4`.
#[inline(always)]
fn dot(sums: v128, codes: v128, x: v128) -> v128 {
    // Lane `j` of each operand has bytes `2 j` and `2 j + 1` of its half.
    let low = i32x4_dot_i16x8(u16x8_extend_low_u8x16(codes), i16x8_extend_low_i8x16(x));
    let high = i32x4_dot_i16x8(u16x8_extend_high_u8x16(codes), i16x8_extend_high_i8x16(x));
    let even = i32x4_shuffle::<0, 2, 4, 6>(low, high);
    let odd = i32x4_shuffle::<1, 3, 5, 7>(low, high);
    i32x4_add(sums, i32x4_add(even, odd))
}

/// Factors that move each code's highest bit to the top of its 16-bit window: there are no per-lane
/// shifts.
const fn lifts<const BITS: usize>() -> v128 {
    let mut lifts = [0; 8];
    let mut code = 0;
    while code < 8 {
        lifts[code] = 1 << (16 - BITS - Windows::<BITS>::BELOW[code] as usize);
        code += 1;
    }
    let [a, b, c, d, e, f, g, h] = lifts;
    u16x8(a, b, c, d, e, f, g, h)
}

impl Codes for Wasm128 {
    const COUNT: usize = 16;
    type Bytes = v128;
    type Sums = v128;
    type Signed = [i8; 16];

    #[inline(always)]
    fn signed(x: &[i8]) -> &[[i8; 16]] {
        x.as_chunks().0
    }
    #[inline(always)]
    fn unpack<const BITS: usize>(self, packed: &[u8]) -> v128 {
        if BITS == 4 {
            let pairs = load_half(&padded(packed));
            let (low, high) = (v128_and(pairs, u8x16_splat(15)), u8x16_shr(pairs, 4));
            return i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(
                low, high,
            );
        }
        let bytes = load_whole(&padded(packed));
        if BITS == 8 {
            return bytes;
        }
        let codes = |pairs: &[u8; 16]| {
            let windows = u8x16_swizzle(bytes, load_whole(pairs));
            u16x8_shr(i16x8_mul(windows, const { lifts::<BITS>() }), 16 - BITS as u32)
        };
        let (low, high) = (codes(&Windows::<BITS>::PAIRS), codes(&Windows::<BITS>::NEXT_PAIRS));
        u8x16_narrow_i16x8(low, high)
    }
    #[inline(always)]
    fn look_up(self, codes: v128, table: &[u8; 16]) -> v128 {
        u8x16_swizzle(load_whole(table), codes)
    }
    #[inline(always)]
    fn store_codes(self, codes: v128, out: &mut [u8]) {
        let out = &mut out[..16];
        // SAFETY: there are 16 bytes to write to; they may be at any address.
        unsafe { v128_store(out.as_mut_ptr().cast(), codes) }
    }
    #[inline(always)]
    fn load_codes(self, codes: &[u8]) -> v128 {
        load_whole(&padded(codes))
    }
    #[inline(always)]
    fn no_sums(self) -> v128 {
        i32x4_splat(0)
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: v128, codes: v128, x: &[i8; 16]) -> v128 {
        // SAFETY: the reference is to exactly the bytes that are read, at any address.
        dot(sums, codes, unsafe { v128_load(x.as_ptr().cast()) })
    }
    #[inline(always)]
    fn dot_splat<const SMALL: bool>(self, sums: v128, codes: v128, x: i32) -> v128 {
        dot(sums, codes, i32x4_splat(x))
    }
}
