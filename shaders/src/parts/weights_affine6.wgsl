// Affine codes of 6 bits.
//# use affine_any

const BITS: u32 = 6u;
