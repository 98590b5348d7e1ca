//! NEON: four lanes, thirty-two registers. Every AArch64 processor has it.

use std::arch::aarch64::*;

use super::{Kernel, Simd, blocks};

/// NEON is part of AArch64, so the token needs no proof. With `DOT` it proves that FEAT_DotProd is
/// available; only [`dispatch_dot`] makes that.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

/// Whether the processor supports what `Neon<true>` uses.
pub(super) fn is_dot_available() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// Runs `kernel` with the dot-product instructions too.
///
/// # Safety
/// [`is_dot_available`] must have returned true.
#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn dispatch_dot<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon::<true>(()))
}

/// Runs `kernel` with NEON, which the target always has.
#[inline(never)]
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon::<false>(()))
}

// SAFETY (all blocks below): the target has NEON; loads and stores go through references to arrays of
// exactly the vector's size and need no alignment.
impl<const DOT: bool> Simd for Neon<DOT> {
    const LANES: usize = 4;
    const WIDE: bool = true;
    type F = float32x4_t;
    blocks!(4);

    #[inline(always)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        if DOT {
            // SAFETY: see above.
            unsafe { dispatch_dot(kernel) }
        } else {
            dispatch(kernel)
        }
    }
    #[inline(always)]
    fn load(self, x: &[f32; 4]) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vld1q_f32(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: float32x4_t, x: &mut [f32; 4]) {
        // SAFETY: see above.
        unsafe { vst1q_f32(x.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 16]) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vreinterpretq_f32_u8(vld1q_u8(x.as_ptr())) }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 8]) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            let halves = vreinterpret_u16_u8(vld1_u8(x.as_ptr()));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(halves))
        }
    }
    /// Uses integer operations, since the intrinsic of the conversion instruction is newer than the
    /// minimum compiler: exponent and mantissa move into place, multiplying by 2^112 corrects the
    /// bias (and normalises subnormals), and infinities and NaN get their exponent back.
    #[inline(always)]
    fn load_f16(self, x: &[u8; 8]) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            let wide = vmovl_u16(vreinterpret_u16_u8(vld1_u8(x.as_ptr())));
            let magnitude = vandq_u32(wide, vdupq_n_u32(0x7fff));
            let shifted = vreinterpretq_f32_u32(vshlq_n_u32::<13>(magnitude));
            let scaled = vmulq_f32(shifted, vdupq_n_f32(f32::from_bits(0x7780_0000)));
            let special =
                vandq_u32(vcgeq_u32(magnitude, vdupq_n_u32(0x7c00)), vdupq_n_u32(0x7f80_0000));
            let sign = vshlq_n_u32::<16>(vandq_u32(wide, vdupq_n_u32(0x8000)));
            let bits = vorrq_u32(vorrq_u32(vreinterpretq_u32_f32(scaled), special), sign);
            vreinterpretq_f32_u32(bits)
        }
    }
    #[inline(always)]
    fn sums_as_floats(self, sums: int32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vcvtq_f32_s32(sums) }
    }
    #[inline(always)]
    fn group_scales(self, scales: &[f32], _group: usize) -> float32x4_t {
        self.splat(scales[0])
    }
    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn pow2(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            let biased = vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
        }
    }
    #[inline(always)]
    fn select_lt(
        self,
        a: float32x4_t,
        b: float32x4_t,
        yes: float32x4_t,
        no: float32x4_t,
    ) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vbslq_f32(vcltq_f32(a, b), yes, no) }
    }
    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        // SAFETY: see above.
        unsafe { vaddvq_f32(a) }
    }
    #[inline(always)]
    fn max_lane(self, a: float32x4_t) -> f32 {
        // SAFETY: see above.
        unsafe { vmaxvq_f32(a) }
    }
}
