//! Plain Rust on arrays of eight: the fallback everywhere, and the plainest statement of what the
//! others compute. LLVM turns most of it into the target's baseline vectors.

use half::{bf16, f16};

use super::{Kernel, Simd, blocks};

/// Needs no proof.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// Runs `kernel` with instructions that every processor has.
#[inline(never)]
pub(super) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Scalar)
}

#[inline(always)]
fn zip(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    const LANES: usize = 8;
    const WIDE: bool = false;
    type F = [f32; 8];
    blocks!(8);

    #[inline(always)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        dispatch(kernel)
    }
    #[inline(always)]
    fn load(self, x: &[f32; 8]) -> [f32; 8] {
        *x
    }
    #[inline(always)]
    fn store(self, v: [f32; 8], x: &mut [f32; 8]) {
        *x = v;
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 32]) -> [f32; 8] {
        let (parts, _) = x.as_chunks::<4>();
        std::array::from_fn(|i| f32::from_le_bytes(parts[i]))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 16]) -> [f32; 8] {
        let (parts, _) = x.as_chunks::<2>();
        std::array::from_fn(|i| bf16::from_le_bytes(parts[i]).to_f32())
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 16]) -> [f32; 8] {
        let (parts, _) = x.as_chunks::<2>();
        std::array::from_fn(|i| f16::from_le_bytes(parts[i]).to_f32())
    }
    #[inline(always)]
    fn sums_as_floats(self, sums: [i32; 8]) -> [f32; 8] {
        sums.map(|sum| sum as f32)
    }
    #[inline(always)]
    fn group_scales(self, scales: &[f32], group: usize) -> [f32; 8] {
        let per_group = group / 4;
        std::array::from_fn(|lane| scales[lane / per_group])
    }
    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| a / b)
    }
    /// Rounded twice: without the instruction, rounding once is a slow library call.
    #[inline(always)]
    fn fma(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn round(self, a: [f32; 8]) -> [f32; 8] {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn pow2(self, a: [f32; 8]) -> [f32; 8] {
        a.map(|x| f32::from_bits((((x as i32) + 127) as u32) << 23))
    }
    #[inline(always)]
    fn select_lt(self, a: [f32; 8], b: [f32; 8], yes: [f32; 8], no: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn sum(self, a: [f32; 8]) -> f32 {
        ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]))
    }
    #[inline(always)]
    fn max_lane(self, a: [f32; 8]) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
