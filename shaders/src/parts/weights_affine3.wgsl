// Affine codes of 3 bits.
//# use affine_any

const BITS: u32 = 3u;
