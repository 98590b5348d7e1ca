//! Options that `/set` changes: those of the command line, with the same parsers.

use std::fmt::Display;

use clap::{CommandFactory, Parser};
use kinglet::Model;
use kinglet::answer::{AnswerDefaults, AnswerOptions, Context, model_context};
use kinglet::sampling::{SamplingOptions, StageOrder};
use kinglet::text::Tokenizer;
use serde_json::{Map, Value};

use crate::error::CliError;
use crate::sampling_args::{SamplingArgs, StopArgs};

/// The value that resets an option.
const DEFAULT: &str = "default";

/// The current options.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) sampling: SamplingArgs,
    pub(super) stop: StopArgs,
    /// Variables of the chat template.
    pub(super) template_var: Vec<(String, Value)>,
    /// Whether to print statistics after each answer.
    pub(super) stats: bool,
}

/// The options merged with the model's own defaults.
pub(crate) struct Choices {
    /// Defaults from the model's files.
    pub(crate) defaults: AnswerDefaults,
    /// The user's options.
    pub(crate) options: AnswerOptions,
    /// Variables of the chat template.
    pub(crate) variables: Map<String, Value>,
    /// The resulting sampling options.
    pub(super) sampling: SamplingOptions,
    /// Maximum number of tokens of prompt and answer.
    pub(super) context: Option<usize>,
}

/// One option and its value, as on a command line.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Words {
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    stop: StopArgs,
    #[arg(long, value_parser = super::variable)]
    template_var: Vec<(String, Value)>,
    #[arg(long)]
    stats: bool,
}

/// All options.
const NAMES: [&str; 26] = [
    "temperature",
    "top-k",
    "top-p",
    "min-p",
    "typical-p",
    "greedy",
    "seed",
    "repetition-penalty",
    "presence-penalty",
    "frequency-penalty",
    "penalty-last-n",
    "dry-multiplier",
    "dry-base",
    "dry-allowed-length",
    "dry-last-n",
    "dry-sequence-breaker",
    "xtc-probability",
    "xtc-threshold",
    "logit-bias",
    "stage-order",
    "max-tokens",
    "stop",
    "ignore-eos",
    "context",
    "template-var",
    "stats",
];

/// The names of all options.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

impl Settings {
    /// Sets an option by its name, which may be written with hyphens or underscores. Returns its
    /// canonical name.
    ///
    /// # Errors
    /// If there is no such option, or the value is invalid.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<&'static str, CliError> {
        let name = known(name)?;
        let usage = |problem: String| CliError::Usage(format!("/set {name}: {problem}"));
        let value = text(value);
        let is_default = value.eq_ignore_ascii_case(DEFAULT);
        if ["greedy", "ignore-eos", "stats"].contains(&name) {
            let on = match value.to_ascii_lowercase().as_str() {
                "on" | "true" | "yes" | "1" => true,
                "off" | "false" | "no" | "0" | DEFAULT => false,
                _ => return Err(usage(format!("{value:?} must be on or off"))),
            };
            match name {
                "greedy" => {
                    self.sampling.greedy = on;
                    // `greedy` and `temperature` exclude each other; the last one wins.
                    self.sampling.temperature = self.sampling.temperature.filter(|_| !on);
                }
                "ignore-eos" => self.stop.ignore_eos = on,
                _ => self.stats = on,
            }
            return Ok(name);
        }
        let word = (!is_default).then(|| format!("--{name}={value}"));
        let new = Words::try_parse_from(word).map_err(|error| {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            usage(line.trim_start_matches("error: ").replace(&format!("--{name}"), name))
        })?;
        self.take(name, new);
        Ok(name)
    }

    /// Takes over one option.
    fn take(&mut self, name: &str, new: Words) {
        let Words { sampling: from, stop, template_var, .. } = new;
        let to = &mut self.sampling;
        match name {
            "temperature" => {
                to.temperature = from.temperature;
                to.greedy = false;
            }
            "top-k" => to.top_k = from.top_k,
            "top-p" => to.top_p = from.top_p,
            "min-p" => to.min_p = from.min_p,
            "typical-p" => to.typical_p = from.typical_p,
            "seed" => to.seed = from.seed,
            "repetition-penalty" => to.repetition_penalty = from.repetition_penalty,
            "presence-penalty" => to.presence_penalty = from.presence_penalty,
            "frequency-penalty" => to.frequency_penalty = from.frequency_penalty,
            "penalty-last-n" => to.penalty_last_n = from.penalty_last_n,
            "dry-multiplier" => to.dry_multiplier = from.dry_multiplier,
            "dry-base" => to.dry_base = from.dry_base,
            "dry-allowed-length" => to.dry_allowed_length = from.dry_allowed_length,
            "dry-last-n" => to.dry_last_n = from.dry_last_n,
            "dry-sequence-breaker" => add(&mut to.dry_sequence_breaker, from.dry_sequence_breaker),
            "xtc-probability" => to.xtc_probability = from.xtc_probability,
            "xtc-threshold" => to.xtc_threshold = from.xtc_threshold,
            "logit-bias" => to.logit_bias = from.logit_bias,
            "stage-order" => to.stage_order = from.stage_order,
            "max-tokens" => self.stop.max_tokens = stop.max_tokens,
            "stop" => add(&mut self.stop.stop, stop.stop),
            "context" => self.stop.context = stop.context,
            "template-var" => {
                let named = |name: &String| template_var.iter().any(|(new, _)| new == name);
                self.template_var.retain(|(name, _)| !template_var.is_empty() && !named(name));
                self.template_var.extend(template_var);
            }
            // Options without a value are set above.
            _ => {}
        }
    }

    /// Merges the options with a model's defaults.
    ///
    /// # Errors
    /// Values out of range; broken files of the model.
    pub(super) fn choices(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        seed: u64,
    ) -> Result<Choices, CliError> {
        let defaults = AnswerDefaults::from_folder(model.folder(), Some(tokenizer.clone()))?;
        let sampling = self.sampling.sampling(&defaults, model.folder())?;
        let options = self.stop.options(sampling, seed);
        let variables = self.template_var.iter().cloned().collect();
        let sampling = options.sampling.options(&defaults.config, Some(tokenizer))?;
        let context = match options.context {
            Context::OfModel => model_context(model),
            Context::Unlimited => None,
            Context::Tokens(most) => Some(most),
        };
        Ok(Choices { defaults, options, variables, sampling, context })
    }

    /// The current value of an option, for people.
    pub(super) fn value(&self, name: &str, choices: &Choices, seed: u64) -> String {
        let Choices { defaults, options, variables, sampling: now, context } = choices;
        let last = |count: Option<usize>| count.map_or("all".into(), |count| count.to_string());
        let switch = |on: bool| if on { "on" } else { "off" }.to_string();
        match name {
            "temperature" => now.temperature.to_string(),
            "top-k" => or(now.top_k, 0, "no limit"),
            "top-p" => now.top_p.to_string(),
            "min-p" => now.min_p.to_string(),
            "typical-p" => now.typical_p.to_string(),
            "greedy" => switch(now.temperature == 0.0),
            "seed" => seed.to_string(),
            "repetition-penalty" => now.repetition_penalty.to_string(),
            "presence-penalty" => now.presence_penalty.to_string(),
            "frequency-penalty" => now.frequency_penalty.to_string(),
            "penalty-last-n" => last(now.penalty_last_n),
            "dry-multiplier" => now.dry.multiplier.to_string(),
            "dry-base" => now.dry.base.to_string(),
            "dry-allowed-length" => now.dry.allowed_length.to_string(),
            "dry-last-n" => last(now.dry.last_n),
            "dry-sequence-breaker" => list(&self.sampling.dry_sequence_breaker, "the usual"),
            "xtc-probability" => now.xtc.probability.to_string(),
            "xtc-threshold" => now.xtc.threshold.to_string(),
            "logit-bias" => {
                let biases = now.logit_bias.iter().map(|(id, bias)| format!("{id}={bias}"));
                or(biases.collect::<Vec<_>>().join(","), String::new(), "none")
            }
            "stage-order" => match now.order {
                StageOrder::TemperatureLast => "temperature-last".into(),
                _ => "temperature-first".into(),
            },
            "max-tokens" => defaults.max_tokens(options.max_tokens).to_string(),
            "stop" => {
                let own = defaults.config.stop_strings.iter().filter(|_| !options.ignore_eos);
                let texts: Vec<_> = options.stop_strings.iter().chain(own).cloned().collect();
                list(&texts, "none")
            }
            "ignore-eos" => switch(self.stop.ignore_eos),
            "context" => context.map_or("no limit".into(), |limit| limit.to_string()),
            "template-var" => {
                let pairs = variables.iter().map(|(name, value)| format!("{name}={value}"));
                or(pairs.collect::<Vec<_>>().join(" "), String::new(), "none")
            }
            "stats" => switch(self.stats),
            _ => String::new(),
        }
    }
}

/// Adds to a list; an empty addition clears it.
fn add(list: &mut Vec<String>, more: Vec<String>) {
    if more.is_empty() {
        list.clear();
    }
    list.extend(more);
}

fn or<T: Display + PartialEq>(value: T, nothing: T, word: &str) -> String {
    if value == nothing { word.into() } else { value.to_string() }
}

fn list(texts: &[String], nothing: &str) -> String {
    let texts = texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" ");
    or(texts, String::new(), nothing)
}

/// The canonical name of an option, as in [`names`].
///
/// # Errors
/// If there is no such option.
pub(super) fn known(name: &str) -> Result<&'static str, CliError> {
    let typed = name.trim_start_matches('-').replace('_', "-").to_ascii_lowercase();
    let command = Words::command();
    let is = |argument: &&clap::Arg| {
        argument.get_long() == Some(&typed)
            || argument.get_all_aliases().is_some_and(|names| names.contains(&typed.as_str()))
    };
    let long = command.get_arguments().find(is).and_then(clap::Arg::get_long);
    NAMES.into_iter().find(|known| Some(*known) == long).ok_or_else(|| {
        let near = NAMES.into_iter().map(|known| (known, strsim::jaro_winkler(&typed, known)));
        let near = near.filter(|(_, likeness)| *likeness > 0.8);
        let near = near.max_by(|a, b| a.1.total_cmp(&b.1));
        let near = near.map(|(name, _)| format!("did you mean {name}?")).unwrap_or_default();
        CliError::Usage(format!("unknown option {name}: {near}/set lists the options"))
    })
}

/// A typed value; a value in quotes is parsed as JSON, so `\n` is a line break.
fn text(value: &str) -> String {
    match serde_json::from_str::<String>(value) {
        Ok(text) => text,
        Err(_) => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let Words { sampling, stop, template_var, stats } =
            Words::try_parse_from(Vec::<String>::new()).unwrap();
        Settings { sampling, stop, template_var, stats }
    }

    #[test]
    fn every_option_of_the_command_line_can_be_set_and_has_a_value() {
        let command = Words::command();
        let mut longs: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        let mut known = NAMES.to_vec();
        longs.sort_unstable();
        known.sort_unstable();
        assert_eq!(longs, known);
        let choices = Choices {
            defaults: AnswerDefaults::default(),
            options: AnswerOptions::new(),
            variables: Map::new(),
            sampling: SamplingOptions::greedy(),
            context: None,
        };
        for name in NAMES {
            assert!(!settings().value(name, &choices, 1).is_empty(), "{name}");
            settings().set(name, "default").unwrap();
        }
    }

    #[test]
    fn options_are_set_by_any_of_their_names() {
        let mut now = settings();
        for (name, value, known) in [
            ("temperature", "0.7", "temperature"),
            ("--temp", "0.7", "temperature"),
            ("top_p", "0.5", "top-p"),
            ("Top-K", "3", "top-k"),
            ("n_none", "", ""),
        ] {
            match now.set(name, value) {
                Ok(name) => assert_eq!(name, known),
                Err(error) => assert!(known.is_empty(), "{error}"),
            }
        }
        let sampling = &now.sampling;
        assert_eq!((sampling.temperature, sampling.top_p), (Some(0.7), Some(0.5)));
        assert_eq!(sampling.top_k, Some(3));
        now.set("greedy", "on").unwrap();
        assert_eq!((now.sampling.greedy, now.sampling.temperature), (true, None));
        now.set("temperature", "1").unwrap();
        assert_eq!((now.sampling.greedy, now.sampling.temperature), (false, Some(1.0)));
        now.set("temperature", "default").unwrap();
        assert_eq!(now.sampling.temperature, None);
    }

    #[test]
    fn lists_grow_until_reset() {
        let mut now = settings();
        for value in ["a b", "\"x\\n\""] {
            now.set("stop", value).unwrap();
        }
        assert_eq!(now.stop.stop, ["a b", "x\n"]);
        now.set("stop", "default").unwrap();
        assert!(now.stop.stop.is_empty());
        for value in ["a=1", "b=x", "a=true"] {
            now.set("template_var", value).unwrap();
        }
        assert_eq!(now.template_var, [("b".into(), "x".into()), ("a".into(), true.into())]);
    }

    #[test]
    fn unknown_options_and_invalid_values_are_reported() {
        for (name, value, part) in [
            ("temperatur", "1", "did you mean temperature?"),
            ("zzz", "1", "unknown option zzz: /set lists"),
            ("temperature", "hot", "'hot'"),
            ("greedy", "maybe", "must be on or off"),
            ("max-tokens", "0", "max-tokens"),
            ("logit-bias", "x", "42=-5"),
        ] {
            let error = settings().set(name, value).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("--"), "{error}");
        }
    }
}
