//! One interface over the vector units: [`Simd`], its implementations, and their selection at run
//! time.
//!
//! An algorithm is written once, as a [`Kernel`] generic over `S: Simd`. [`Isa::dispatch`] runs it
//! in a function compiled for the instruction set. Since everything it calls is
//! `#[inline(always)]`, the kernel's body is compiled to that set's instructions.
//!
//! A value of a type that implements [`Simd`] is a *token*. Except for the scalar one it comes only
//! from [`Isa::detect`], so it proves that the processor has the instructions, and the trait's
//! methods are safe to call.
//!
//! | implementation | lanes | needs |
//! | --- | --- | --- |
//! | `scalar` | 8, as an array | nothing; not built for targets that always have vectors |
//! | `avx2` | 8 | AVX2, FMA, F16C |
//! | `avx512` | 16 | AVX-512 F, BW, VL, DQ |
//! | `avx512vnni` | 16 | these, VNNI and VBMI |
//! | `neon` | 4 | NEON (every AArch64) |
//! | `neondot` | 4 | FEAT_DotProd |
//! | `simd128` | 4 | a WebAssembly build with `-C target-feature=+simd128` |
//!
//! [`codes`] has the small-integer operations for packed weights.

// This module exists for the instruction sets' intrinsics: see the SAFETY comments.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_codes;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_codes;
pub(crate) mod codes;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_codes;
#[cfg(not(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128"))))]
mod scalar;
#[cfg(not(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128"))))]
mod scalar_codes;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm128;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm128_codes;

use codes::Codes;

/// A vector unit. `F` holds [`Self::LANES`] values of `f32`.
pub(crate) trait Simd: Codes {
    /// Number of values in a vector.
    const LANES: usize;
    /// Whether there are 32 vector registers rather than 16, which sets the size of register tiles.
    const WIDE: bool;
    /// A vector.
    type F: Copy;
    /// `[f32; LANES]`.
    type Block: Copy;
    /// `[u8; 2 * LANES]`: as many 16-bit floats.
    type Bytes2: Copy;
    /// `[u8; 4 * LANES]`: as many 32-bit floats.
    type Bytes4: Copy;

    /// Splits a slice into whole blocks and the rest.
    fn blocks(x: &[f32]) -> (&[Self::Block], &[f32]);
    /// Splits a slice into whole blocks and the rest.
    fn blocks_mut(x: &mut [f32]) -> (&mut [Self::Block], &mut [f32]);
    /// Splits bytes into whole blocks of 16-bit floats and the rest.
    fn bytes2(x: &[u8]) -> (&[Self::Bytes2], &[u8]);
    /// Splits bytes into whole blocks of 32-bit floats and the rest.
    fn bytes4(x: &[u8]) -> (&[Self::Bytes4], &[u8]);

    fn load(self, x: &Self::Block) -> Self::F;
    fn store(self, v: Self::F, x: &mut Self::Block);
    /// Loads little-endian f32 without alignment.
    fn load_f32(self, x: &Self::Bytes4) -> Self::F;
    /// Loads little-endian bfloat16 without alignment.
    fn load_bf16(self, x: &Self::Bytes2) -> Self::F;
    /// Loads little-endian binary16 without alignment.
    fn load_f16(self, x: &Self::Bytes2) -> Self::F;

    /// Converts sums of codes to floats.
    fn sums_as_floats(self, sums: Self::Sums) -> Self::F;
    /// The scale of each lane's codes in a vector of codes that begins a group (or lies within
    /// one). `scales` are those of its groups of `group` codes; at least 4 must be readable.
    fn group_scales(self, scales: &[f32], group: usize) -> Self::F;

    fn splat(self, x: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once if the unit supports that.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The smaller one. If either is NaN, `b` or NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger one. If either is NaN, `b` or NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Rounds to the nearest whole number.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^a` for whole `a` in -126..=127.
    fn pow2(self, a: Self::F) -> Self::F;
    /// Per lane: `a < b ? yes : no`.
    fn select_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// Sum over lanes.
    fn sum(self, a: Self::F) -> f32;
    /// Maximum over lanes.
    fn max_lane(self, a: Self::F) -> f32;

    /// Runs `kernel` with the same instructions in a separate function, so that code shared by many
    /// kernels is compiled once.
    fn apart<K: Kernel>(self, kernel: K) -> K::Output;

    /// Hints that the memory at `address` will be read soon. The address may be invalid.
    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        let _ = address;
    }

    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }

    /// Loads `x.len() < LANES` values, padded with zeros.
    #[inline(always)]
    fn load_partial(self, x: &[f32]) -> Self::F {
        let mut padded = [0.0f32; 16];
        for (p, v) in padded.iter_mut().zip(x) {
            *p = *v;
        }
        let (blocks, _) = Self::blocks(&padded);
        self.load(&blocks[0])
    }

    /// Stores the first `x.len() < LANES` lanes.
    #[inline(always)]
    fn store_partial(self, v: Self::F, x: &mut [f32]) {
        let mut padded = [0.0f32; 16];
        let (blocks, _) = Self::blocks_mut(&mut padded);
        self.store(v, &mut blocks[0]);
        for (p, v) in x.iter_mut().zip(&padded) {
            *p = *v;
        }
    }
}

/// Loads `x.len()` values, at most a vector, padded with zeros.
#[inline(always)]
pub(crate) fn load<S: Simd>(s: S, x: &[f32]) -> S::F {
    match S::blocks(x).0.first() {
        Some(block) => s.load(block),
        None => s.load_partial(x),
    }
}

/// Stores the first `x.len()` lanes, at most all.
#[inline(always)]
pub(crate) fn store<S: Simd>(s: S, v: S::F, x: &mut [f32]) {
    if x.len() < S::LANES {
        s.store_partial(v, x);
    } else if let Some(block) = S::blocks_mut(x).0.first_mut() {
        s.store(v, block);
    }
}

/// Work that is generic over the vector unit. `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(not(any(
        target_arch = "aarch64",
        all(target_arch = "wasm32", target_feature = "simd128")
    )))]
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Wasm128,
}

impl Isa {
    /// The best one available. The variable `KINGLET_ISA` (`scalar`, `avx2`, `avx512`,
    /// `avx512vnni`, `neon`, `neondot`) selects another, for tests; it is ignored with a warning if
    /// the processor lacks it.
    pub fn detect() -> Self {
        let available = Self::available();
        let best = available[available.len() - 1];
        match std::env::var("KINGLET_ISA") {
            Ok(name) => available.into_iter().find(|isa| isa.name() == name).unwrap_or_else(|| {
                log::warn!(
                    "KINGLET_ISA={name} is not available on this processor: using {}",
                    best.name()
                );
                best
            }),
            Err(_) => best,
        }
    }

    /// All sets that this processor has, slowest first; never empty.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = Vec::new();
        // On targets that always have vectors, scalar code would be dead weight.
        #[cfg(not(any(
            target_arch = "aarch64",
            all(target_arch = "wasm32", target_feature = "simd128")
        )))]
        all.push(Self(Kind::Scalar));
        #[cfg(target_arch = "x86_64")]
        {
            if avx2::is_available() {
                all.push(Self(Kind::Avx2));
            }
            if avx512::is_available() {
                all.push(Self(Kind::Avx512));
            }
            if avx512::is_vnni_available() {
                all.push(Self(Kind::Avx512Vnni));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            all.push(Self(Kind::Neon));
            if neon::is_dot_available() {
                all.push(Self(Kind::NeonDot));
            }
        }
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        all.push(Self(Kind::Wasm128));
        all
    }

    /// Its name, as in `KINGLET_ISA`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(not(any(
                target_arch = "aarch64",
                all(target_arch = "wasm32", target_feature = "simd128")
            )))]
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDot => "neondot",
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Wasm128 => "simd128",
        }
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(not(any(
                target_arch = "aarch64",
                all(target_arch = "wasm32", target_feature = "simd128")
            )))]
            Kind::Scalar => scalar::dispatch(kernel),
            // SAFETY: an `Isa` of this kind exists only after its features were detected.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::dispatch(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::dispatch(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => unsafe { avx512::dispatch_vnni(kernel) },
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => neon::dispatch(kernel),
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDot => unsafe { neon::dispatch_dot(kernel) },
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Kind::Wasm128 => wasm128::dispatch(kernel),
        }
    }
}

/// The four methods that split slices into arrays, the same for every unit except for its width.
macro_rules! blocks {
    ($lanes:literal) => {
        type Block = [f32; $lanes];
        type Bytes2 = [u8; 2 * $lanes];
        type Bytes4 = [u8; 4 * $lanes];
        #[inline(always)]
        fn blocks(x: &[f32]) -> (&[Self::Block], &[f32]) {
            x.as_chunks()
        }
        #[inline(always)]
        fn blocks_mut(x: &mut [f32]) -> (&mut [Self::Block], &mut [f32]) {
            x.as_chunks_mut()
        }
        #[inline(always)]
        fn bytes2(x: &[u8]) -> (&[Self::Bytes2], &[u8]) {
            x.as_chunks()
        }
        #[inline(always)]
        fn bytes4(x: &[u8]) -> (&[Self::Bytes4], &[u8]) {
            x.as_chunks()
        }
    };
}
pub(crate) use blocks;

#[cfg(test)]
mod tests;
