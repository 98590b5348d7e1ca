//! The decays of a chunk of tokens, one for each token, as the chunkwise scans use them.

use crate::backend::cpu::simd::{Kernel, Simd, load, math, store};

/// Tokens of a chunk.
pub(crate) const CHUNK: usize = 64;

/// Sums of the log decays of a chunk's tokens, each as the sum of two `f32`, so that differences of large sums keep their accuracy.
pub(crate) struct Decay {
    high: [f32; CHUNK],
    low: [f32; CHUNK],
}

impl Decay {
    /// Of the log decays of at most [`CHUNK`] tokens.
    pub(crate) fn new(logs: impl Iterator<Item = f64>) -> Self {
        let mut decay = Self { high: [0.0; CHUNK], low: [0.0; CHUNK] };
        let mut sum = 0.0f64;
        for (i, log) in logs.enumerate().take(CHUNK) {
            sum += log;
            decay.high[i] = sum as f32;
            decay.low[i] = (sum - f64::from(decay.high[i])) as f32;
        }
        decay
    }

    /// Decay from the chunk's beginning to token `i`, its own included.
    pub(crate) fn up_to(&self, i: usize) -> f32 {
        (self.high[i] + self.low[i]).exp()
    }

    /// Decay from just after token `j` up to token `i`.
    pub(crate) fn between(&self, i: usize, j: usize) -> f32 {
        ((self.high[i] - self.high[j]) + (self.low[i] - self.low[j])).exp()
    }
}

/// `row[j] = scores[j] e^(s_i - s_j) factors[j]` for `j <= i`, with `s` the sums of log decays; 0 for the others.
pub(crate) struct DecayRow<'a> {
    pub decay: &'a Decay,
    pub factors: &'a [f32],
    pub scores: &'a [f32],
    pub i: usize,
    pub row: &'a mut [f32],
}

impl Kernel for DecayRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let seen = self.i + 1;
        let (high, low) = (s.splat(self.decay.high[self.i]), s.splat(self.decay.low[self.i]));
        for start in (0..seen).step_by(S::LANES) {
            let end = (start + S::LANES).min(seen);
            let high = s.sub(high, load(s, &self.decay.high[start..end]));
            let low = s.sub(low, load(s, &self.decay.low[start..end]));
            let weight = s.mul(math::exp(s, s.add(high, low)), load(s, &self.factors[start..end]));
            let value = s.mul(weight, load(s, &self.scores[start..end]));
            store(s, value, &mut self.row[start..end]);
        }
        self.row[seen..].fill(0.0);
    }
}
