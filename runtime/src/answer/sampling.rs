//! [`Sampling`]: the caller's sampling options, on top of the model's own.

use super::AnswerError;
use crate::sampling::{SamplingOptions, StageOrder};
use crate::text::{EncodeOptions, GenerationConfig, Tokenizer};

/// Default sequence breakers of DRY: ends of lines, and characters around quotes, lists and names.
/// Repetitions don't extend across them.
pub const DRY_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// How tokens are chosen. A field that is `None` takes the value in `generation_config.json`, or
/// else the one of [`SamplingOptions::from_generation_config`]. The fields are those of
/// [`SamplingOptions`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// [`SamplingOptions::temperature`].
    pub temperature: Option<f32>,
    /// [`SamplingOptions::top_k`].
    pub top_k: Option<u32>,
    /// [`SamplingOptions::top_p`].
    pub top_p: Option<f32>,
    /// [`SamplingOptions::min_p`].
    pub min_p: Option<f32>,
    /// [`SamplingOptions::typical_p`].
    pub typical_p: Option<f32>,
    /// [`SamplingOptions::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// [`SamplingOptions::presence_penalty`].
    pub presence_penalty: Option<f32>,
    /// [`SamplingOptions::frequency_penalty`].
    pub frequency_penalty: Option<f32>,
    /// [`SamplingOptions::penalty_last_n`].
    pub penalty_last_n: Option<usize>,
    /// DRY: strength of the penalty.
    pub dry_multiplier: Option<f32>,
    /// DRY: growth of the penalty with each further token.
    pub dry_base: Option<f32>,
    /// DRY: repetitions shorter than this have no penalty.
    pub dry_allowed_length: Option<u32>,
    /// DRY: number of last tokens to search for repetitions.
    pub dry_last_n: Option<usize>,
    /// DRY: strings that repetitions don't extend across. Defaults to [`DRY_BREAKERS`].
    pub dry_sequence_breakers: Option<Vec<String>>,
    /// XTC: probability of removing the most probable tokens.
    pub xtc_probability: Option<f32>,
    /// XTC: probability from which a token counts as one of the most probable.
    pub xtc_threshold: Option<f32>,
    /// [`SamplingOptions::logit_bias`].
    pub logit_bias: Vec<(u32, f32)>,
    /// [`SamplingOptions::order`].
    pub order: StageOrder,
}

impl Sampling {
    /// The defaults that the model's authors set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: Some(0.0), ..Self::default() }
    }

    /// Whether an option is set that only makes sense for random draws.
    fn draws(&self) -> bool {
        let above_0 = [self.temperature, self.min_p, self.xtc_probability];
        // Neutral values don't count.
        self.top_k.is_some_and(|top_k| top_k > 0)
            || above_0.iter().flatten().any(|value| *value > 0.0)
            || [self.top_p, self.typical_p].iter().flatten().any(|value| *value < 1.0)
    }

    /// The options for the sampler.
    ///
    /// If the defaults are greedy and an option is set that only makes sense for random draws,
    /// tokens are drawn, as `transformers` does with `do_sample=True`.
    ///
    /// # Errors
    /// [`AnswerError::Defaults`] and [`AnswerError::Sampling`]; sequence breakers that have no
    /// tokens, or are given without a tokenizer.
    pub fn options(
        &self,
        config: &GenerationConfig,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<SamplingOptions, AnswerError> {
        let do_sample = if self.draws() { Some(true) } else { config.do_sample };
        let config = GenerationConfig { do_sample, ..config.clone() };
        let mut options =
            SamplingOptions::from_generation_config(&config).map_err(AnswerError::Defaults)?;
        set(&mut options.temperature, self.temperature);
        set(&mut options.top_k, self.top_k);
        set(&mut options.top_p, self.top_p);
        set(&mut options.min_p, self.min_p);
        set(&mut options.typical_p, self.typical_p);
        set(&mut options.repetition_penalty, self.repetition_penalty);
        set(&mut options.presence_penalty, self.presence_penalty);
        set(&mut options.frequency_penalty, self.frequency_penalty);
        options.penalty_last_n = self.penalty_last_n;
        set(&mut options.dry.multiplier, self.dry_multiplier);
        set(&mut options.dry.base, self.dry_base);
        set(&mut options.dry.allowed_length, self.dry_allowed_length);
        options.dry.last_n = self.dry_last_n;
        set(&mut options.xtc.probability, self.xtc_probability);
        set(&mut options.xtc.threshold, self.xtc_threshold);
        options.logit_bias.clone_from(&self.logit_bias);
        options.order = self.order;
        if options.dry.multiplier > 0.0 {
            options.dry.sequence_breakers = self.breakers(tokenizer)?;
        }
        options.validate().map_err(AnswerError::Sampling)?;
        Ok(options)
    }

    fn breakers(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<Vec<u32>>, AnswerError> {
        let plain = EncodeOptions { add_special_tokens: false, parse_special_tokens: false };
        let Some(tokenizer) = tokenizer else {
            return match self.dry_sequence_breakers.as_deref() {
                None | Some([]) => Ok(Vec::new()),
                Some(_) => Err(AnswerError::NoTokenizer { what: "sequence breakers" }),
            };
        };
        let mut breakers = Vec::new();
        match &self.dry_sequence_breakers {
            Some(texts) => {
                for text in texts {
                    let tokens = tokenizer.encode(text, plain)?;
                    if tokens.is_empty() {
                        return Err(AnswerError::EmptyBreaker { text: text.clone() });
                    }
                    breakers.push(tokens);
                }
            }
            // A default breaker may have no token.
            None => {
                let tokens =
                    DRY_BREAKERS.iter().filter_map(|text| tokenizer.encode(text, plain).ok());
                breakers.extend(tokens.filter(|tokens| !tokens.is_empty()));
            }
        }
        Ok(breakers)
    }
}

fn set<T: Copy>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(config: &GenerationConfig, sampling: Sampling) -> SamplingOptions {
        sampling.options(config, None).unwrap()
    }

    #[test]
    fn the_models_defaults_hold_until_an_option_is_set() {
        let sampled = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_k: Some(20),
            ..Default::default()
        };
        let own = options(&sampled, Sampling::new());
        assert_eq!((own.temperature, own.top_k), (0.6, 20));
        let set =
            Sampling { temperature: Some(0.9), logit_bias: vec![(7, 1.5)], ..Sampling::new() };
        let set = options(&sampled, set);
        assert_eq!((set.temperature, set.top_k), (0.9, 20));
        assert_eq!(set.logit_bias, [(7, 1.5)]);
        assert_eq!(options(&sampled, Sampling::greedy()).temperature, 0.0);
    }

    #[test]
    fn a_greedy_model_draws_when_an_option_asks_for_draws() {
        let greedy = GenerationConfig::default();
        assert_eq!(options(&greedy, Sampling::new()).temperature, 0.0);
        let penalty = Sampling { repetition_penalty: Some(1.1), ..Sampling::new() };
        assert_eq!(options(&greedy, penalty).temperature, 0.0);
        for sampling in [
            Sampling { top_p: Some(0.9), ..Sampling::new() },
            Sampling { top_k: Some(5), ..Sampling::new() },
            Sampling { xtc_probability: Some(0.5), ..Sampling::new() },
        ] {
            assert_eq!(options(&greedy, sampling).temperature, 1.0);
        }
        assert_eq!(options(&greedy, Sampling::greedy()).temperature, 0.0);
        // Neutral values, as clients with fixed defaults send them.
        let (top_p, top_k, min_p) = (Some(1.0), Some(0), Some(0.0));
        let neutral = Sampling { top_p, top_k, min_p, ..Sampling::new() };
        assert_eq!(options(&greedy, neutral).temperature, 0.0);
    }

    #[test]
    fn whose_value_is_out_of_range_is_told() {
        let wrong = Sampling { top_p: Some(0.0), ..Sampling::new() };
        let error = wrong.options(&GenerationConfig::default(), None).unwrap_err();
        assert!(matches!(error, AnswerError::Sampling(_)), "{error}");
        let broken =
            GenerationConfig { do_sample: Some(true), top_p: Some(7.0), ..Default::default() };
        let error = Sampling::new().options(&broken, None).unwrap_err();
        assert!(error.to_string().starts_with("generation_config.json: "), "{error}");
        let breakers = Sampling {
            dry_multiplier: Some(0.8),
            dry_sequence_breakers: Some(vec!["\n".into()]),
            ..Sampling::new()
        };
        let error = breakers.options(&GenerationConfig::default(), None).unwrap_err();
        assert!(matches!(error, AnswerError::NoTokenizer { .. }), "{error}");
    }
}
