// Affine codes of 2 bits.
//# use affine_any

const BITS: u32 = 2u;
