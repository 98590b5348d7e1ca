//! The options that decide how tokens are chosen and when an answer ends.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use kinglet::answer::{AnswerDefaults, AnswerError, AnswerOptions, Context, Sampling, random_seed};
use kinglet::sampling::StageOrder;

use crate::error::CliError;
use crate::interrupt;

/// How tokens are chosen. What is not given is as the model's generation_config.json says.
#[derive(Args, Clone)]
#[command(next_help_heading = "Sampling (defaults: the model's generation_config.json)")]
pub(crate) struct SamplingArgs {
    /// Always take the most probable token
    #[arg(long, conflicts_with = "temperature")]
    pub(crate) greedy: bool,
    /// Randomness: 0 is none, 1 is the model's own distribution [default: the model's, else 0]
    #[arg(long, alias = "temp", value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Draw among the N most probable tokens; 0 is no limit [default: the model's, else 50]
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<u32>,
    /// Draw among the most probable tokens that together have this probability [default: the model's, else 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Draw among tokens with at least this share of the highest probability [default: the model's, else 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Draw among the most typical tokens that together have this probability [default: the model's, else 1]
    #[arg(
        long,
        alias = "typical",
        value_name = "P",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub(crate) typical_p: Option<f32>,
    /// Penalty on tokens that occurred, as a divisor; 1 is none [default: the model's, else 1]
    #[arg(long, alias = "repeat-penalty", value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Penalty on tokens that occurred, subtracted once [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Penalty on tokens that occurred, subtracted for each time [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// How many of the last tokens the penalties look at [default: all]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) penalty_last_n: Option<usize>,
    /// DRY: strength of the penalty on repeated sequences; 0.8 is usual [default: 0, off]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) dry_multiplier: Option<f32>,
    /// DRY: growth of the penalty with each repeated token [default: 1.75]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) dry_base: Option<f32>,
    /// DRY: repetitions shorter than this are free [default: 2]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) dry_allowed_length: Option<u32>,
    /// DRY: how many of the last tokens to look at [default: all]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) dry_last_n: Option<usize>,
    /// DRY: repetitions don't reach over this text (repeatable) [default: line end, ':', '"', '*']
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    pub(crate) dry_sequence_breaker: Vec<String>,
    /// XTC: how often the most probable tokens are left out; 0.5 is usual [default: 0, off]
    #[arg(long, value_name = "P", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) xtc_probability: Option<f32>,
    /// XTC: which tokens count as most probable [default: 0.1]
    #[arg(long, value_name = "P", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) xtc_threshold: Option<f32>,
    /// Add a number to a token's logit, as in 42=-5 or 42=-inf (repeatable) [default: none]
    #[arg(
        long,
        value_name = "ID=X",
        value_delimiter = ',',
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub(crate) logit_bias: Vec<Bias>,
    /// In which order the distribution is cut: temperature-first as transformers does, temperature-last as llama.cpp does
    /// [default: temperature-first]
    #[arg(
        long,
        value_name = "ORDER",
        value_enum,
        hide_possible_values = true,
        hide_short_help = true
    )]
    pub(crate) stage_order: Option<Order>,
    /// Same seed, same options, same answer [default: a random one below 2^53]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// When an answer ends.
#[derive(Args, Clone)]
#[command(next_help_heading = "End of the answer")]
pub(crate) struct StopArgs {
    /// The most tokens of an answer [default: the model's, else 2048]
    #[arg(long, short = 'n', aliases = ["max-new-tokens", "n-predict"], value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// End the answer before this text (repeatable; $'\n' is a line break in most shells) [default: the model's]
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Go on after the model's own stop tokens and stop strings
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// The most tokens of prompt and answer; 0 is no limit [default: what the positions of the model allow]
    #[arg(long, alias = "ctx-size", value_name = "N")]
    pub(crate) context: Option<usize>,
}

impl StopArgs {
    /// What was given on the command line, with how tokens are chosen.
    pub(crate) fn options(&self, sampling: Sampling, seed: u64) -> AnswerOptions {
        let mut options =
            AnswerOptions::new().sampling(sampling).seed(seed).ignore_eos(self.ignore_eos);
        options.max_tokens = self.max_tokens.and_then(|most| usize::try_from(most).ok());
        options.stop_strings.clone_from(&self.stop);
        // A long step of a prompt is stopped on its way.
        options.cancel = Some(interrupt::cancel().clone());
        options.context(match self.context {
            None => Context::OfModel,
            Some(0) => Context::Unlimited,
            Some(most) => Context::Tokens(most),
        })
    }
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
    /// What was given on the command line, on top of the model's defaults.
    ///
    /// # Errors
    /// Values out of range; DRY's breakers, which are text, without a tokenizer.
    pub(crate) fn sampling(
        &self,
        defaults: &AnswerDefaults,
        folder: &std::path::Path,
    ) -> Result<Sampling, CliError> {
        let breakers =
            (!self.dry_sequence_breaker.is_empty()).then(|| self.dry_sequence_breaker.clone());
        let sampling = Sampling {
            temperature: if self.greedy { Some(0.0) } else { self.temperature },
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_last_n: self.penalty_last_n,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_last_n: self.dry_last_n,
            dry_sequence_breakers: breakers,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            logit_bias: self.logit_bias.iter().map(|Bias(id, bias)| (*id, *bias)).collect(),
            order: match self.stage_order {
                Some(Order::TemperatureLast) => StageOrder::TemperatureLast,
                Some(Order::TemperatureFirst) | None => StageOrder::TemperatureFirst,
            },
        };
        // Refused here rather than in the middle of a conversation.
        match sampling.options(&defaults.config, defaults.tokenizer.as_ref()) {
            Ok(_) => Ok(sampling),
            Err(AnswerError::Defaults(source)) => {
                Err(CliError::ModelDefaults { folder: folder.into(), source })
            }
            Err(AnswerError::NoTokenizer { .. }) => {
                let message = "--dry-sequence-breaker is text, but the model has no tokenizer.json";
                Err(CliError::Usage(message.into()))
            }
            Err(AnswerError::EmptyBreaker { text }) => {
                Err(CliError::Usage(format!("--dry-sequence-breaker {text:?} has no tokens")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The seed that was given, or a random one, which JSON gives as a number.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(random_seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use kinglet::sampling::SamplingOptions;
    use kinglet::text::GenerationConfig;
    use std::path::Path;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn options(config: &GenerationConfig, line: &[&str]) -> Result<SamplingOptions, CliError> {
        let line = Line::try_parse_from([&["kinglet"], line].concat()).unwrap();
        let defaults = AnswerDefaults { config: config.clone(), ..AnswerDefaults::default() };
        let sampling = line.sampling.sampling(&defaults, Path::new("model"))?;
        Ok(sampling.options(config, None)?)
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
