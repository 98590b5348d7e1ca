//! Choosing the next token from a model's logits.
//!
//! A [`Sampler`] combines [`SamplingOptions`], which may change from token to token, with a
//! [`SamplerState`] (random numbers and history), which belongs to one sequence. It never touches
//! the model's state. After the first tokens it allocates no memory.
//!
//! ```
//! use kinglet::sampling::{Sampler, SamplingOptions};
//!
//! # fn main() -> Result<(), kinglet::sampling::SamplingError> {
//! let options = SamplingOptions { temperature: 0.7, top_p: 0.9, ..Default::default() };
//! let mut sampler = Sampler::new(options, 42)?;
//! let logits = [0.1, 2.0, -1.0, 1.5];
//! let token = sampler.sample(&logits)?;
//! sampler.accept(token);
//! # Ok(()) }
//! ```

mod candidates;
mod dry;
mod error;
mod log_probs;
mod math;
mod options;
mod penalties;
mod rng;
mod state;
#[cfg(test)]
mod tests;

pub use error::SamplingError;
pub use log_probs::{LogProb, LogProbs, log_probs};
pub use options::{DryOptions, SamplingOptions, StageOrder, XtcOptions};
pub use rng::Rng;
pub use state::SamplerState;

use std::cmp::Ordering;

use candidates::Candidates;

use crate::backend::TokenChoice;

/// Chooses tokens for one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    state: SamplerState,
    // Buffers, kept to avoid allocations.
    logits: Vec<f32>,
    candidates: Candidates,
    counts: penalties::Counts,
    dry: dry::Scratch,
}

impl Sampler {
    /// Creates a sampler with an empty history, seeded by `seed`.
    ///
    /// # Errors
    /// Those of [`SamplingOptions::validate`].
    pub fn new(options: SamplingOptions, seed: u64) -> Result<Self, SamplingError> {
        Self::with_state(options, SamplerState::new(seed))
    }

    /// Creates a sampler that continues from `state`.
    ///
    /// # Errors
    /// Those of [`SamplingOptions::validate`].
    pub fn with_state(
        options: SamplingOptions,
        state: SamplerState,
    ) -> Result<Self, SamplingError> {
        options.validate()?;
        Ok(Self {
            options,
            state,
            logits: Vec::new(),
            candidates: Candidates::default(),
            counts: penalties::Counts::default(),
            dry: dry::Scratch::default(),
        })
    }

    /// The options.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Changes the options from the next token on. On error they stay as they were.
    ///
    /// # Errors
    /// Those of [`SamplingOptions::validate`].
    pub fn set_options(&mut self, options: SamplingOptions) -> Result<(), SamplingError> {
        options.validate()?;
        self.options = options;
        Ok(())
    }

    /// The state, to be saved or cloned for a fork.
    pub fn state(&self) -> &SamplerState {
        &self.state
    }

    /// The state, to add a prompt to its history, rewind it, reseed it or replace it.
    pub fn state_mut(&mut self) -> &mut SamplerState {
        &mut self.state
    }

    /// Consumes the random numbers that a device used for a token chosen this way.
    pub(crate) fn skip(&mut self, choice: &TokenChoice) {
        if let TokenChoice::Drawn(_) = choice {
            self.state.rng().next_f64();
        }
    }

    /// Records a token that is now part of the text: one that was sampled and used.
    pub fn accept(&mut self, token: u32) {
        self.state.accept(token);
    }

    /// Chooses a token from `logits`, `[vocabulary]`. The token is not recorded: see
    /// [`Self::accept`].
    ///
    /// # Errors
    /// If a logit is NaN or positive infinity, no token can be chosen, or a logit bias names a
    /// token that the model doesn't have.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        if self.options.temperature == 0.0 {
            let options = &self.options;
            let plain = options.logit_bias.is_empty()
                && options.dry.multiplier == 0.0
                && !options.has_penalties();
            return if plain {
                check(logits).map(|(best, _)| best)
            } else {
                self.modify(logits).map(|(best, _)| best)
            };
        }
        let none = SamplingError::NoCandidates { logits: logits.len() };
        if !self.options.cuts() {
            let (_, max) = self.modify(logits)?;
            let number = self.state.rng().next_f64();
            let drawn = math::draw(&self.logits, max, self.options.temperature, number);
            return drawn.and_then(|place| u32::try_from(place).ok()).ok_or(none);
        }
        self.cut(logits)?;
        let number = self.state.rng().next_f64();
        self.candidates.draw(self.final_temperature(), number).ok_or(none)
    }

    /// The tokens that can be drawn with their probabilities, in falling order. XTC, which is
    /// random itself, is applied as it would be for the next token. The state does not change.
    ///
    /// # Errors
    /// Those of [`Self::sample`].
    pub fn distribution(&mut self, logits: &[f32]) -> Result<Vec<(u32, f32)>, SamplingError> {
        if self.options.temperature == 0.0 {
            return Ok(vec![(self.sample(logits)?, 1.0)]);
        }
        let rng = self.state.rng().clone();
        let cut = self.cut(logits);
        *self.state.rng() = rng;
        cut?;
        let temperature = self.final_temperature();
        Ok(self.candidates.probabilities(temperature))
    }

    /// The temperature that the candidates' logits must still be divided by.
    fn final_temperature(&self) -> f32 {
        match self.options.order {
            StageOrder::TemperatureFirst => 1.0,
            StageOrder::TemperatureLast => self.options.temperature,
        }
    }

    /// Applies bias and penalties to a copy of the logits. Returns the best token and its logit.
    fn modify(&mut self, logits: &[f32]) -> Result<(u32, f32), SamplingError> {
        check(logits)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        for &(id, bias) in &self.options.logit_bias {
            let place = usize::try_from(id).ok().and_then(|place| self.logits.get_mut(place));
            *place.ok_or(SamplingError::Token {
                name: "logit_bias",
                id,
                vocabulary: logits.len(),
            })? += bias;
        }
        let history = self.state.last(self.options.penalty_last_n);
        penalties::apply(&self.options, history, &mut self.counts, &mut self.logits);
        if self.options.dry.multiplier > 0.0 {
            let history = self.state.last(self.options.dry.last_n);
            dry::apply(&self.options.dry, history, &mut self.dry, &mut self.logits);
        }
        check(&self.logits)
    }

    /// Runs all stages before the draw; the result is in `candidates`.
    fn cut(&mut self, logits: &[f32]) -> Result<(), SamplingError> {
        let (_, max) = self.modify(logits)?;
        let options = &self.options;
        let candidates = &mut self.candidates;
        let logits = &self.logits;
        let top_k = usize::try_from(options.top_k).unwrap_or(usize::MAX);
        let temperature = match options.order {
            StageOrder::TemperatureFirst => options.temperature,
            StageOrder::TemperatureLast => 1.0,
        };
        // The first stage that reduces the tokens can do so while it collects them.
        let typical_first = options.order == StageOrder::TemperatureLast && options.typical_p < 1.0;
        if top_k > 0 {
            candidates.fill_top_k(logits, max, temperature, top_k);
            if typical_first {
                candidates.typical(options.typical_p);
            }
            candidates.top_p(options.top_p);
        } else if typical_first {
            candidates.fill(logits, max, temperature);
            candidates.typical(options.typical_p);
            candidates.top_p(options.top_p);
        } else if options.top_p < 1.0 {
            candidates.fill_top_p(logits, max, temperature, options.top_p);
        } else if options.min_p > 0.0 {
            candidates.fill_min_p(logits, max, temperature, options.min_p);
        } else {
            candidates.fill(logits, max, temperature);
        }
        candidates.min_p(options.min_p);
        if options.order == StageOrder::TemperatureFirst {
            candidates.typical(options.typical_p);
        }
        if options.xtc.probability > 0.0
            && self.state.rng().next_f64() < f64::from(options.xtc.probability)
        {
            candidates.exclude_top(options.xtc.threshold);
        }
        Ok(())
    }
}

/// Checks the logits and finds the largest: its token and its value. Ties go to the lowest id.
fn check(logits: &[f32]) -> Result<(u32, f32), SamplingError> {
    let mut best = None;
    let mut max = f32::NEG_INFINITY;
    for (place, &logit) in logits.iter().enumerate() {
        // One comparison for most logits: NaN is unordered.
        if logit.partial_cmp(&max).is_none_or(Ordering::is_gt) {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(SamplingError::NotFinite { id: place, value: logit });
            }
            max = logit;
            best = u32::try_from(place).ok();
        }
    }
    let best = best.ok_or(SamplingError::NoCandidates { logits: logits.len() })?;
    Ok((best, max))
}
