//! Random numbers that are the same on every platform for the same seed.

use serde::{Deserialize, Serialize};

/// xoshiro256++ (D. Blackman, S. Vigna, "Scrambled Linear Pseudorandom Number Generators", 2019),
/// with its state filled from a seed by SplitMix64, as its authors advise.
///
/// Saving and restoring the state continues the sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// Creates a generator from a seed. All seeds are equally good.
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// Whether the state is all zeros, which yields zeros forever and comes from no seed.
    pub(crate) fn is_stuck(&self) -> bool {
        self.state == [0; 4]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = &mut self.state;
        let result = s0.wrapping_add(*s3).rotate_left(23).wrapping_add(*s0);
        let shifted = *s1 << 17;
        *s2 ^= *s0;
        *s3 ^= *s1;
        *s1 ^= *s2;
        *s0 ^= *s3;
        *s2 ^= shifted;
        *s3 = s3.rotate_left(45);
        result
    }

    /// A random number in `[0, 1)`, in steps of 2⁻⁵³.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_xoshiro256_plus_plus() {
        // The first numbers of the authors' C code for this state.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let expected = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
            9_228_616_714_210_784_205,
            9_973_669_472_204_895_162,
        ];
        for value in expected {
            assert_eq!(rng.next_u64(), value);
        }
    }

    #[test]
    fn a_seed_is_spread_by_splitmix64() {
        // The first numbers of SplitMix64 for seed 0.
        assert_eq!(Rng::new(0).state[..2], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
        assert_ne!(Rng::new(1), Rng::new(2));
    }

    #[test]
    fn the_state_goes_through_serde() {
        let mut rng = Rng::new(7);
        rng.next_u64();
        let saved = serde_json::to_string(&rng).expect("a state of integers");
        let mut restored: Rng = serde_json::from_str(&saved).expect("what was saved");
        assert_eq!(restored.next_u64(), rng.next_u64());
        let number = rng.next_f64();
        assert!((0.0..1.0).contains(&number));
    }
}
