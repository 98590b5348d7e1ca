//! The options that decide how tokens are chosen and when an answer ends.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use kinglet::sampling::{SamplingOptions, StageOrder};
use kinglet::text::{EncodeOptions, GenerationConfig, Tokenizer};

use crate::error::CliError;

/// What DRY does not reach over unless told otherwise: the ends of lines and of quotes, lists, names.
const DRY_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// How tokens are chosen. What is not given is as the model's generation_config.json says.
#[derive(Args)]
#[command(next_help_heading = "Sampling (defaults: the model's generation_config.json)")]
pub(crate) struct SamplingArgs {
    /// Always take the most probable token
    #[arg(long, conflicts_with = "temperature")]
    pub(crate) greedy: bool,
    /// Randomness: 0 is none, 1 is the model's own distribution
    #[arg(long, alias = "temp", value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Draw among the N most probable tokens; 0 is no limit
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<u32>,
    /// Draw among the most probable tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Draw among tokens with at least this share of the highest probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Draw among the most typical tokens that together have this probability
    #[arg(long, alias = "typical", value_name = "P", allow_negative_numbers = true)]
    pub(crate) typical_p: Option<f32>,
    /// Penalty on tokens that occurred, as a divisor; 1 is none
    #[arg(long, alias = "repeat-penalty", value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Penalty on tokens that occurred, subtracted once
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Penalty on tokens that occurred, subtracted for each time
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// The penalties look at so many of the last tokens; all if not given
    #[arg(long, value_name = "N")]
    pub(crate) penalty_last_n: Option<usize>,
    /// DRY: strength of the penalty on repeated sequences; 0 is off, 0.8 is usual
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) dry_multiplier: Option<f32>,
    /// DRY: growth of the penalty with each repeated token [usual: 1.75]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) dry_base: Option<f32>,
    /// DRY: repetitions shorter than this are free [usual: 2]
    #[arg(long, value_name = "N")]
    pub(crate) dry_allowed_length: Option<u32>,
    /// DRY: look at so many of the last tokens; all if not given
    #[arg(long, value_name = "N")]
    pub(crate) dry_last_n: Option<usize>,
    /// DRY: repetitions don't reach over this text (repeatable) [line end, ':', '"', '*']
    #[arg(long, value_name = "TEXT")]
    pub(crate) dry_sequence_breaker: Vec<String>,
    /// XTC: how often the most probable tokens are left out; 0 is off, 0.5 is usual
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) xtc_probability: Option<f32>,
    /// XTC: which tokens count as most probable [usual: 0.1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) xtc_threshold: Option<f32>,
    /// Add a number to a token's logit, as in 42=-5 or 42=-inf (repeatable)
    #[arg(long, value_name = "ID=X", value_delimiter = ',', allow_hyphen_values = true)]
    pub(crate) logit_bias: Vec<Bias>,
    /// In which order the distribution is cut: temperature-first as transformers does (the default),
    /// temperature-last as llama.cpp does
    #[arg(long, value_name = "ORDER", value_enum, hide_possible_values = true)]
    pub(crate) stage_order: Option<Order>,
    /// Same seed, same options, same answer; a random one if not given
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// When an answer ends.
#[derive(Args)]
#[command(next_help_heading = "End of the answer")]
pub(crate) struct StopArgs {
    /// The most tokens of an answer
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// End the answer before this text (repeatable; $'\n' is a line break in most shells)
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Go on after the model's end-of-text tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// The most tokens of prompt and answer; 0 is no limit [default: what the positions of the model allow]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
}

/// The order of the stages that cut the distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    TemperatureFirst,
    TemperatureLast,
}

/// `ID=X`: what is added to a token's logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bias(u32, f32);

impl FromStr for Bias {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('=')
            .and_then(|(id, bias)| Some(Self(id.trim().parse().ok()?, bias.trim().parse().ok()?)));
        parsed.ok_or_else(|| "expected a token id and a number, as in 42=-5".into())
    }
}

impl SamplingArgs {
    /// The model's defaults with what was given on the command line on top.
    ///
    /// Where the defaults are greedy and an option that only makes sense for draws is given, tokens are drawn: as
    /// `transformers` does with `do_sample=True`.
    ///
    /// # Errors
    /// Values out of range; DRY's breakers, which are text, without a tokenizer.
    pub(crate) fn options(
        &self,
        config: &GenerationConfig,
        tokenizer: Option<&Tokenizer>,
        folder: &std::path::Path,
    ) -> Result<SamplingOptions, CliError> {
        let mut config = config.clone();
        let draws = self.temperature.is_some_and(|temperature| temperature > 0.0)
            || self.top_k.is_some()
            || [self.top_p, self.min_p, self.typical_p, self.xtc_probability]
                .iter()
                .any(Option::is_some);
        if draws {
            config.do_sample = Some(true);
        }
        let mut options = SamplingOptions::from_generation_config(&config)
            .map_err(|source| CliError::ModelDefaults { folder: folder.into(), source })?;
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
        options.logit_bias = self.logit_bias.iter().map(|Bias(id, bias)| (*id, *bias)).collect();
        if self.greedy {
            options.temperature = 0.0;
        }
        options.order = match self.stage_order {
            Some(Order::TemperatureLast) => StageOrder::TemperatureLast,
            Some(Order::TemperatureFirst) | None => StageOrder::TemperatureFirst,
        };
        if options.dry.multiplier > 0.0 {
            options.dry.sequence_breakers = self.breakers(tokenizer)?;
        }
        options.validate().map_err(|error| CliError::Usage(error.to_string()))?;
        Ok(options)
    }

    fn breakers(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<Vec<u32>>, CliError> {
        let given: Vec<&str> = self.dry_sequence_breaker.iter().map(String::as_str).collect();
        let Some(tokenizer) = tokenizer else {
            if given.is_empty() {
                return Ok(Vec::new());
            }
            let message = "--dry-sequence-breaker is text, but the model has no tokenizer.json";
            return Err(CliError::Usage(message.into()));
        };
        let texts = if given.is_empty() { &DRY_BREAKERS[..] } else { &given };
        let plain = EncodeOptions { add_special_tokens: false, parse_special_tokens: false };
        let mut breakers = Vec::new();
        for text in texts {
            match tokenizer.encode(text, plain) {
                Ok(tokens) if !tokens.is_empty() => breakers.push(tokens),
                // One of the usual breakers may have no token; one that was asked for must.
                _ if given.is_empty() => {}
                Ok(_) => {
                    let message = format!("--dry-sequence-breaker {text:?} has no tokens");
                    return Err(CliError::Usage(message));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(breakers)
    }

    /// The seed that was given, or a random one.
    pub(crate) fn seed(&self) -> u64 {
        // The standard library seeds its hash maps from the system's randomness.
        self.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish())
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn options(config: &GenerationConfig, line: &[&str]) -> Result<SamplingOptions, CliError> {
        let line = Line::try_parse_from([&["kinglet"], line].concat()).unwrap();
        line.sampling.options(config, None, Path::new("model"))
    }

    #[test]
    fn the_models_defaults_hold_until_an_option_is_given() {
        let sampled = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_k: Some(20),
            ..Default::default()
        };
        let own = options(&sampled, &[]).unwrap();
        assert_eq!((own.temperature, own.top_k), (0.6, 20));
        let given = options(&sampled, &["--temp", "0.9", "--logit-bias", "4=-inf,7=1.5"]).unwrap();
        assert_eq!((given.temperature, given.top_k), (0.9, 20));
        assert_eq!(given.logit_bias, [(4, f32::NEG_INFINITY), (7, 1.5)]);
        assert_eq!(options(&sampled, &["--greedy"]).unwrap().temperature, 0.0);
    }

    #[test]
    fn a_greedy_model_draws_when_an_option_asks_for_draws() {
        let greedy = GenerationConfig::default();
        assert_eq!(options(&greedy, &[]).unwrap().temperature, 0.0);
        assert_eq!(options(&greedy, &["--repetition-penalty", "1.1"]).unwrap().temperature, 0.0);
        assert_eq!(options(&greedy, &["--top-p", "0.9"]).unwrap().temperature, 1.0);
        assert_eq!(options(&greedy, &["--temperature", "0"]).unwrap().temperature, 0.0);
    }

    #[test]
    fn whose_value_is_out_of_range_is_told() {
        let config = GenerationConfig::default();
        for line in
            [["--temperature", "-1"], ["--top-p", "0"], ["--min-p", "2"], ["--dry-base", "0.5"]]
        {
            assert!(matches!(options(&config, &line), Err(CliError::Usage(_))), "{line:?}");
        }
        let broken =
            GenerationConfig { do_sample: Some(true), top_p: Some(7.0), ..Default::default() };
        assert!(matches!(options(&broken, &[]), Err(CliError::ModelDefaults { .. })));
        assert!("42".parse::<Bias>().is_err() && "a=1".parse::<Bias>().is_err());
    }
}
