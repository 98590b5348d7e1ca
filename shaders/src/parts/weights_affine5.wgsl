// Affine codes of 5 bits.
//# use affine_any

const BITS: u32 = 5u;
