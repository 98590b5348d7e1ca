// A cache with codes of 4 bits.
const BITS: u32 = 4u;
//# use cache_packed
