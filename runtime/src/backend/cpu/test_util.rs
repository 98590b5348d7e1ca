//! Shared helpers of the kernels' tests.

/// Reproducible random numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// SplitMix64 (Steele et al., 2014).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[0, 1)`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Approximately normal: the sum of twelve uniform numbers, minus six.
    pub(crate) fn normal(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| ((0..12).map(|_| self.unit()).sum::<f64>() - 6.0) as f32).collect()
    }
}

/// Asserts that each element is within `bound`, relative to the larger of 1 and its magnitude.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], expected: impl IntoIterator<Item = f64>, bound: f64) {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(got.len(), expected.len());
    for (i, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= bound * expected.abs().max(1.0), "element {i}: {got}, not {expected}");
    }
}
