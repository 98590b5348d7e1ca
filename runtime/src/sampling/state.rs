//! [`SamplerState`]: what a sampler remembers between tokens.

use serde::{Deserialize, Serialize};

use super::Rng;

/// The memory of a sampler: its random number generator, and the tokens that penalties consider.
///
/// It is independent of the options and of the model, and belongs to one sequence. If it is cloned
/// or saved (with serde) and restored together with the model's state, generation continues as if
/// uninterrupted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerState {
    rng: Rng,
    history: Vec<u32>,
}

impl SamplerState {
    /// Creates a state without history.
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), history: Vec::new() }
    }

    /// Appends a token to the history.
    pub fn accept(&mut self, token: u32) {
        self.history.push(token);
    }

    /// Appends tokens to the history, such as a prompt that penalties are to count (as in
    /// `transformers` and llama.cpp).
    pub fn accept_all(&mut self, tokens: &[u32]) {
        self.history.extend_from_slice(tokens);
    }

    /// The tokens in the history.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// Drops all tokens after the first `length`, for a sequence that is rewound. The random
    /// numbers are not rewound.
    pub fn rewind(&mut self, length: usize) {
        self.history.truncate(length);
    }

    /// Restarts the random numbers from a seed. The history stays.
    pub fn reseed(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
    }

    /// The last `count` tokens, or all of them for `None`.
    pub(super) fn last(&self, count: Option<usize>) -> &[u32] {
        let start = count.map_or(0, |count| self.history.len().saturating_sub(count));
        self.history.get(start..).unwrap_or_default()
    }

    /// Rebuilds a state from its random numbers and history.
    pub(crate) fn from_parts(rng: Rng, history: Vec<u32>) -> Self {
        Self { rng, history }
    }

    /// The random number generator.
    pub(crate) fn random(&self) -> &Rng {
        &self.rng
    }

    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}
