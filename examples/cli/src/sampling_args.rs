//! Options for sampling and for ending an answer.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use kinglet::answer::{AnswerDefaults, AnswerError, AnswerOptions, Context, Sampling, random_seed};
use kinglet::sampling::StageOrder;

use crate::error::CliError;
use crate::interrupt;

/// Sampling options. Those not given come from the model's generation_config.json.
#[derive(Args, Clone)]
#[command(next_help_heading = "Sampling (defaults: the model's generation_config.json)")]
pub(crate) struct SamplingArgs {
    /// Always take the most probable token
    #[arg(long, conflicts_with = "temperature")]
    pub(crate) greedy: bool,
    /// Randomness: 0 is greedy, 1 is the model's own distribution [default: the model's, else 0]
    #[arg(long, alias = "temp", value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Sample from the N most probable tokens; 0 is no limit [default: the model's, else 50]
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<u32>,
    /// Sample from the most probable tokens that together have this probability [default: the
    /// model's, else 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Sample from tokens with at least this fraction of the highest probability [default: the
    /// model's, else 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Sample from the most typical tokens that together have this probability [default: the
    /// model's, else 1]
    #[arg(
        long,
        alias = "typical",
        value_name = "P",
        allow_negative_numbers = true,
        hide_short_help = true
    )]
    pub(crate) typical_p: Option<f32>,
    /// Divide the logits of tokens that occurred by this; 1 is off [default: the model's, else 1]
    #[arg(long, alias = "repeat-penalty", value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtract this from the logits of tokens that occurred [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtract this from the logits of tokens for each occurrence [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Number of last tokens that the penalties consider [default: all]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) penalty_last_n: Option<usize>,
    /// DRY: strength of the penalty on repeated sequences; 0.8 is usual [default: 0, off]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) dry_multiplier: Option<f32>,
    /// DRY: growth of the penalty with each repeated token [default: 1.75]
    #[arg(long, value_name = "X", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) dry_base: Option<f32>,
    /// DRY: repetitions shorter than this have no penalty [default: 2]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) dry_allowed_length: Option<u32>,
    /// DRY: number of last tokens to consider [default: all]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) dry_last_n: Option<usize>,
    /// DRY: text that ends a repetition (repeatable) [default: line end, ':', '"', '*']
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    pub(crate) dry_sequence_breaker: Vec<String>,
    /// XTC: probability of excluding the most probable tokens; 0.5 is usual [default: 0, off]
    #[arg(long, value_name = "P", allow_negative_numbers = true, hide_short_help = true)]
    pub(crate) xtc_probability: Option<f32>,
    /// XTC: probability from which tokens may be excluded [default: 0.1]
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
    /// Order of temperature and filters: temperature-first as in transformers, temperature-last as
    /// in llama.cpp [default: temperature-first]
    #[arg(
        long,
        value_name = "ORDER",
        value_enum,
        hide_possible_values = true,
        hide_short_help = true
    )]
    pub(crate) stage_order: Option<Order>,
    /// Random seed; the same seed and options give the same answer [default: random, below 2^53]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// When an answer ends.
#[derive(Args, Clone)]
#[command(next_help_heading = "End of the answer")]
pub(crate) struct StopArgs {
    /// Maximum number of tokens of the answer [default: the model's, else 2048]
    #[arg(long, short = 'n', aliases = ["max-new-tokens", "n-predict"], value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// End the answer before this text (repeatable; $'\n' is a line break in most shells) [default:
    /// the model's]
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Continue after the model's own stop tokens and stop strings
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Maximum number of tokens of prompt and answer; 0 is no limit [default: the model's number of
    /// positions]
    #[arg(long, alias = "ctx-size", value_name = "N")]
    pub(crate) context: Option<usize>,
}

impl StopArgs {
    /// The answer options from the command line, with sampling options and seed.
    pub(crate) fn options(&self, sampling: Sampling, seed: u64) -> AnswerOptions {
        let mut options =
            AnswerOptions::new().sampling(sampling).seed(seed).ignore_eos(self.ignore_eos);
        options.max_tokens = self.max_tokens.and_then(|most| usize::try_from(most).ok());
        options.stop_strings.clone_from(&self.stop);
        // Lets Ctrl-C stop a long step of a prompt.
        options.cancel = Some(interrupt::cancel().clone());
        options.context(match self.context {
            None => Context::OfModel,
            Some(0) => Context::Unlimited,
            Some(most) => Context::Tokens(most),
        })
    }
}

/// Order of temperature and the other filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    TemperatureFirst,
    TemperatureLast,
}

/// `ID=X`: a number to add to a token's logit.
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
    /// The sampling options from the command line, checked together with the model's defaults.
    ///
    /// # Errors
    /// Values out of range; DRY sequence breakers without a tokenizer, as they are text.
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
        // Check now rather than in the middle of a conversation.
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

    /// The given seed, or a random one that JSON can hold as a number.
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
    fn values_out_of_range_name_their_origin() {
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
