//! [`Codes`]: small-integer operations of a vector unit, for packed weights and int8 activations.
//!
//! A vector holds `4 * LANES` bytes; lane `l` of the sums covers the bytes `4 l..4 l + 4`. Codes
//! are unpacked in natural order, so activations need no special order.

/// Codes in the longest vector.
pub(crate) const MOST_CODES: usize = 64;

/// Integer operations of a vector unit.
pub(crate) trait Codes: Copy + Send + Sync + 'static {
    /// Codes per vector: four per lane.
    const COUNT: usize;
    /// `[u8; COUNT]` in a register.
    type Bytes: Copy;
    /// `[i32; LANES]` in a register.
    type Sums: Copy;
    /// `[i8; COUNT]` in memory.
    type Signed: Copy;

    /// Splits activations into whole blocks.
    fn signed(x: &[i8]) -> &[Self::Signed];
    /// Unpacks the first `COUNT` codes of `BITS` bits (2, 3, 4, 5, 6 or 8) of `packed`, padding
    /// with zeros. Never reads past the end.
    fn unpack<const BITS: usize>(self, packed: &[u8]) -> Self::Bytes;
    /// `table[code]` for codes below 16.
    fn look_up(self, codes: Self::Bytes, table: &[u8; 16]) -> Self::Bytes;
    /// `out[i] = code i`, `COUNT` bytes.
    fn store_codes(self, codes: Self::Bytes, out: &mut [u8]);
    /// Loads `COUNT` codes of one byte each.
    fn load_codes(self, codes: &[u8]) -> Self::Bytes;
    /// Zeros.
    fn no_sums(self) -> Self::Sums;
    /// `sums[l] += sum of codes[4 l + i] * x[4 l + i]`, exactly. `SMALL` promises codes below 64.
    /// Activations are never -128.
    fn dot<const SMALL: bool>(
        self,
        sums: Self::Sums,
        codes: Self::Bytes,
        x: &Self::Signed,
    ) -> Self::Sums;
    /// Like `dot`, with the same four activations for all lanes.
    fn dot_splat<const SMALL: bool>(
        self,
        sums: Self::Sums,
        codes: Self::Bytes,
        x: i32,
    ) -> Self::Sums;
}

/// The positions of eight codes of `BITS` bits in the `BITS` bytes that hold them.
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
))]
pub(super) struct Windows<const BITS: usize>;

#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
))]
impl<const BITS: usize> Windows<BITS> {
    /// For 16-bit element `c` of a 128-bit lane: the two bytes that hold code `c` of eight.
    pub(super) const PAIRS: [u8; 16] = {
        let mut index = [0; 16];
        let mut code = 0;
        while code < 8 {
            index[2 * code] = (code * BITS / 8) as u8;
            index[2 * code + 1] = (code * BITS / 8 + 1) as u8;
            code += 1;
        }
        index
    };

    /// The same for the next eight codes.
    pub(super) const NEXT_PAIRS: [u8; 16] = {
        let mut index = Self::PAIRS;
        let mut i = 0;
        while i < 16 {
            index[i] += BITS as u8;
            i += 1;
        }
        index
    };

    /// Number of bits below code `c` in its two bytes.
    pub(super) const BELOW: [i16; 8] = {
        let mut below = [0; 8];
        let mut code = 0;
        while code < 8 {
            below[code] = (code * BITS % 8) as i16;
            code += 1;
        }
        below
    };
}

/// The first `N` bytes of `bytes`, padded with zeros.
#[inline(always)]
pub(crate) fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    match bytes.first_chunk() {
        Some(whole) => *whole,
        None => {
            let mut padded = [0; N];
            padded[..bytes.len()].copy_from_slice(bytes);
            padded
        }
    }
}
