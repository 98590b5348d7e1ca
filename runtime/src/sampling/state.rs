//! What a sampler remembers between tokens.

use serde::{Deserialize, Serialize};

use super::Rng;

/// The memory of a sampler: the random numbers to come, and the tokens that penalties look at.
///
/// It is independent of the options and of the model, and belongs to one sequence. Cloned or saved
/// (with serde) and restored together with the model's state, generation goes on as if nothing had
/// happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerState {
    rng: Rng,
    history: Vec<u32>,
}

impl SamplerState {
    /// A state without history.
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), history: Vec::new() }
    }

    /// Appends a token to the history.
    pub fn accept(&mut self, token: u32) {
        self.history.push(token);
    }

    /// Appends tokens to the history: a prompt, where penalties are to count it (as they do in
    /// `transformers` and llama.cpp).
    pub fn accept_all(&mut self, tokens: &[u32]) {
        self.history.extend_from_slice(tokens);
    }

    /// The tokens so far.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// Forgets all tokens after the first `length`, for a sequence that is rewound. The random
    /// numbers are not rewound.
    pub fn rewind(&mut self, length: usize) {
        self.history.truncate(length);
    }

    /// Begins anew with the random numbers of a seed. The history stays.
    pub fn reseed(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
    }

    /// The last `count` tokens; all of them for `None`.
    pub(super) fn last(&self, count: Option<usize>) -> &[u32] {
        let start = count.map_or(0, |count| self.history.len().saturating_sub(count));
        self.history.get(start..).unwrap_or_default()
    }

    /// A state that was taken apart into random numbers and history.
    pub(crate) fn from_parts(rng: Rng, history: Vec<u32>) -> Self {
        Self { rng, history }
    }

    /// The random numbers to come.
    pub(crate) fn random(&self) -> &Rng {
        &self.rng
    }

    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }
}
