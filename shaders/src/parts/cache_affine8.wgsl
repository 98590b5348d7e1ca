// A cache with codes of 8 bits.
const BITS: u32 = 8u;
//# use cache_packed
