//! WebAssembly's vectors: four lanes. A module with vectors is refused as a whole where they are
//! missing, so there is nothing to detect: this is compiled if `simd128` is enabled for the whole
//! build.
//!
//! This set has no fused multiply-add ("relaxed SIMD" does, but not every browser has it), so
//! products are rounded.

use std::arch::wasm32::*;

use super::{Kernel, Simd, blocks};

/// The instructions are part of the module, so the token needs no proof.
#[derive(Clone, Copy)]
pub(crate) struct Wasm128(());

/// Runs `kernel` with these instructions, which the build always has.
#[inline(never)]
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Wasm128(()))
}

/// Loads 8 bytes into the low half, with zeros above.
#[inline(always)]
pub(super) fn load_half(x: &[u8; 8]) -> v128 {
    // SAFETY: the reference is to exactly the bytes that are read, at any address.
    unsafe { v128_load64_zero(x.as_ptr().cast()) }
}

/// All 16 bytes.
#[inline(always)]
pub(super) fn load_whole(x: &[u8; 16]) -> v128 {
    // SAFETY: as above.
    unsafe { v128_load(x.as_ptr().cast()) }
}

impl Simd for Wasm128 {
    const LANES: usize = 4;
    /// Browsers on x86 have 16 vector registers.
    const WIDE: bool = false;
    type F = v128;
    blocks!(4);

    #[inline(always)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        dispatch(kernel)
    }
    #[inline(always)]
    fn load(self, x: &[f32; 4]) -> v128 {
        // SAFETY: the reference is to exactly the bytes that are read, at any address.
        unsafe { v128_load(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store(self, v: v128, x: &mut [f32; 4]) {
        // SAFETY: the reference is to exactly the bytes that are written, at any address.
        unsafe { v128_store(x.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 16]) -> v128 {
        load_whole(x)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 8]) -> v128 {
        u32x4_shl(u32x4_extend_low_u16x8(load_half(x)), 16)
    }
    /// Uses integer operations, since there is no conversion: exponent and mantissa move into
    /// place, multiplying by 2^112 corrects the bias (and normalises subnormals), and infinities
    /// and NaN get their exponent back.
    #[inline(always)]
    fn load_f16(self, x: &[u8; 8]) -> v128 {
        let wide = u32x4_extend_low_u16x8(load_half(x));
        let magnitude = v128_and(wide, u32x4_splat(0x7fff));
        let scaled = f32x4_mul(u32x4_shl(magnitude, 13), f32x4_splat(f32::from_bits(0x7780_0000)));
        let special = v128_and(u32x4_ge(magnitude, u32x4_splat(0x7c00)), u32x4_splat(0x7f80_0000));
        let sign = u32x4_shl(v128_and(wide, u32x4_splat(0x8000)), 16);
        v128_or(v128_or(scaled, special), sign)
    }
    #[inline(always)]
    fn sums_as_floats(self, sums: v128) -> v128 {
        f32x4_convert_i32x4(sums)
    }
    #[inline(always)]
    fn group_scales(self, scales: &[f32], _group: usize) -> v128 {
        self.splat(scales[0])
    }
    #[inline(always)]
    fn splat(self, x: f32) -> v128 {
        f32x4_splat(x)
    }
    #[inline(always)]
    fn add(self, a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }
    #[inline(always)]
    fn sub(self, a: v128, b: v128) -> v128 {
        f32x4_sub(a, b)
    }
    #[inline(always)]
    fn mul(self, a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }
    #[inline(always)]
    fn div(self, a: v128, b: v128) -> v128 {
        f32x4_div(a, b)
    }
    #[inline(always)]
    fn fma(self, a: v128, b: v128, c: v128) -> v128 {
        f32x4_add(f32x4_mul(a, b), c)
    }
    /// `pmin(p, q)` is `q < p ? q : p`.
    #[inline(always)]
    fn min(self, a: v128, b: v128) -> v128 {
        f32x4_pmin(b, a)
    }
    /// `pmax(p, q)` is `p < q ? q : p`.
    #[inline(always)]
    fn max(self, a: v128, b: v128) -> v128 {
        f32x4_pmax(b, a)
    }
    #[inline(always)]
    fn round(self, a: v128) -> v128 {
        f32x4_nearest(a)
    }
    #[inline(always)]
    fn pow2(self, a: v128) -> v128 {
        i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(a), i32x4_splat(127)), 23)
    }
    #[inline(always)]
    fn select_lt(self, a: v128, b: v128, yes: v128, no: v128) -> v128 {
        v128_bitselect(yes, no, f32x4_lt(a, b))
    }
    #[inline(always)]
    fn sum(self, a: v128) -> f32 {
        let halves = f32x4_add(a, i32x4_shuffle::<2, 3, 0, 1>(a, a));
        f32x4_extract_lane::<0>(halves) + f32x4_extract_lane::<1>(halves)
    }
    #[inline(always)]
    fn max_lane(self, a: v128) -> f32 {
        let halves = f32x4_pmax(a, i32x4_shuffle::<2, 3, 0, 1>(a, a));
        f32x4_extract_lane::<0>(halves).max(f32x4_extract_lane::<1>(halves))
    }
}
