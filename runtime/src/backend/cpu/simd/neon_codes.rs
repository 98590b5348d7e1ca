//! [`Codes`] with NEON: by widening products, which every AArch64 processor has, or by `sdot` with
//! FEAT_DotProd.

use std::arch::aarch64::*;

use super::codes::{Codes, Windows, padded};
use super::neon::Neon;

/// Signed codes times activations: lane `l` sums the bytes `4 l..4 l + 4`.
#[inline(always)]
fn dot_signed<const DOT: bool>(sums: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the target has NEON. `DOT` is true only if the instruction was detected; its
    // intrinsic is not stable yet.
    unsafe {
        if DOT {
            let mut sums = sums;
            std::arch::asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {codes:v}.16b, {x:v}.16b",
                sums = inout(vreg) sums,
                codes = in(vreg) codes,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
            return sums;
        }
        // One pair of products of bytes above -128 fits in 16 bits, so widen each at once.
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(x)));
        let high = vpaddlq_s16(vmull_high_s8(codes, x));
        vaddq_s32(sums, vpaddq_s32(low, high))
    }
}

#[inline(always)]
fn dot<const DOT: bool, const SMALL: bool>(
    sums: int32x4_t,
    codes: uint8x16_t,
    x: int8x16_t,
) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        if SMALL {
            return dot_signed::<DOT>(sums, vreinterpretq_s8_u8(codes), x);
        }
        // q = (q - 128) + 128, the first of which fits in a signed byte.
        let centred = vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128)));
        let sums = dot_signed::<DOT>(sums, centred, x);
        let all = dot_signed::<DOT>(vdupq_n_s32(0), vdupq_n_s8(1), x);
        vaddq_s32(sums, vshlq_n_s32::<7>(all))
    }
}

impl<const DOT: bool> Codes for Neon<DOT> {
    const COUNT: usize = 16;
    type Bytes = uint8x16_t;
    type Sums = int32x4_t;
    type Signed = [i8; 16];

    #[inline(always)]
    fn signed(x: &[i8]) -> &[[i8; 16]] {
        x.as_chunks().0
    }
    #[inline(always)]
    fn unpack<const BITS: usize>(self, packed: &[u8]) -> uint8x16_t {
        // SAFETY: the target has NEON; loads go through arrays of exactly the vector's size.
        unsafe {
            let bytes: [u8; 16] = padded(packed);
            let bytes = vld1q_u8(bytes.as_ptr());
            if BITS == 8 {
                return bytes;
            }
            let down = vnegq_s16(vld1q_s16(Windows::<BITS>::BELOW.as_ptr()));
            let mask = vdupq_n_u16((1 << BITS) - 1);
            let codes = |pairs: &[u8; 16]| {
                let windows = vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(pairs.as_ptr())));
                vandq_u16(vshlq_u16(windows, down), mask)
            };
            let (low, high) = (codes(&Windows::<BITS>::PAIRS), codes(&Windows::<BITS>::NEXT_PAIRS));
            vcombine_u8(vmovn_u16(low), vmovn_u16(high))
        }
    }
    #[inline(always)]
    fn look_up(self, codes: uint8x16_t, table: &[u8; 16]) -> uint8x16_t {
        // SAFETY: as above.
        unsafe { vqtbl1q_u8(vld1q_u8(table.as_ptr()), codes) }
    }
    #[inline(always)]
    fn store_codes(self, codes: uint8x16_t, out: &mut [u8]) {
        let out = &mut out[..16];
        // SAFETY: as above.
        unsafe { vst1q_u8(out.as_mut_ptr(), codes) }
    }
    #[inline(always)]
    fn load_codes(self, codes: &[u8]) -> uint8x16_t {
        let bytes: [u8; 16] = padded(codes);
        // SAFETY: as above.
        unsafe { vld1q_u8(bytes.as_ptr()) }
    }
    #[inline(always)]
    fn no_sums(self) -> int32x4_t {
        // SAFETY: as above.
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    fn dot<const SMALL: bool>(self, sums: int32x4_t, codes: uint8x16_t, x: &[i8; 16]) -> int32x4_t {
        // SAFETY: as above.
        dot::<DOT, SMALL>(sums, codes, unsafe { vld1q_s8(x.as_ptr()) })
    }
    #[inline(always)]
    fn dot_splat<const SMALL: bool>(self, sums: int32x4_t, codes: uint8x16_t, x: i32) -> int32x4_t {
        // SAFETY: as above.
        dot::<DOT, SMALL>(sums, codes, unsafe { vreinterpretq_s8_s32(vdupq_n_s32(x)) })
    }
}
