//! Options for generating an answer.

use std::ffi::c_char;
use std::sync::{Arc, Mutex, PoisonError};

use kinglet::answer::{AnswerOptions, Context, Sampling};
use kinglet::sampling::StageOrder;
use kinglet::text::{DateTime, GenerationConfig};
use serde_json::{Map, Value};

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory;
use crate::model::{ModelObject, kinglet_model};
use crate::status::{Failure, kinglet_status};

/// Options for generating an answer. New options use the model's own settings. They are copied when
/// a generation is created and may be changed or deleted afterwards. Thread-safe.
pub struct kinglet_generation_options;

/// Sampling options. An option that is not set takes its value from the model's
/// `generation_config.json`, or else the value in parentheses, which has no effect. If the model's
/// default is greedy and an option is set that only matters for random sampling, tokens are
/// sampled, with a top-k of 50 unless it is set, as in transformers.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_sampling {
    /// Divides the logits (1). 0 always takes the most probable token.
    KINGLET_TEMPERATURE = 0,
    /// Keeps only this many of the most probable tokens (0: all).
    KINGLET_TOP_K = 1,
    /// Keeps the most probable tokens whose probabilities add up to this (1).
    KINGLET_TOP_P = 2,
    /// Keeps tokens with at least this fraction of the highest probability (0).
    KINGLET_MIN_P = 3,
    /// Keeps the most typical tokens whose probabilities add up to this (1).
    KINGLET_TYPICAL_P = 4,
    /// Makes tokens that are already in the text less likely (1).
    KINGLET_REPETITION_PENALTY = 5,
    /// Subtracted from the logits of tokens that are already in the text (0).
    KINGLET_PRESENCE_PENALTY = 6,
    /// Subtracted once for each occurrence of the token in the text (0).
    KINGLET_FREQUENCY_PENALTY = 7,
    /// Number of last tokens that the three penalties consider (0: all).
    KINGLET_PENALTY_LAST_N = 8,
    /// Strength of the penalty on repeated sequences, "DRY" (0).
    KINGLET_DRY_MULTIPLIER = 9,
    /// Base of the DRY penalty, which grows with the length of the repetition; at least 1 (1.75).
    KINGLET_DRY_BASE = 10,
    /// Repetitions shorter than this many tokens have no DRY penalty (2).
    KINGLET_DRY_ALLOWED_LENGTH = 11,
    /// Number of last tokens that DRY considers (0: all).
    KINGLET_DRY_LAST_N = 12,
    /// Probability of excluding the most probable tokens, "XTC" (0).
    KINGLET_XTC_PROBABILITY = 13,
    /// Minimum probability of a token that XTC excludes (0.1).
    KINGLET_XTC_THRESHOLD = 14,
    /// 1 applies the temperature after the other filters, as llama.cpp does; 0 before, as
    /// transformers does (0).
    KINGLET_TEMPERATURE_LAST = 15,
}

#[derive(Clone, Default)]
pub(crate) struct GenerationOptions {
    pub(crate) answer: AnswerOptions,
    /// Draft model, and the maximum number of tokens it drafts in a step.
    pub(crate) draft: Option<(Arc<ModelObject>, usize)>,
    /// The maximum number of tokens that the model's prediction head drafts in a step.
    pub(crate) head_drafts: usize,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) variables: Map<String, Value>,
    /// Name of the chat template.
    pub(crate) template: Option<String>,
    /// Local time of a chat, in seconds since 1970.
    pub(crate) now: Option<i64>,
}

/// Converts a float that holds a whole number of at least 0.
fn whole(value: f64) -> Result<u32, Failure> {
    if value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value) {
        return Ok(value as u32);
    }
    Err(Failure::argument(format!("{value} must be a whole number from 0 to {}", u32::MAX)))
}

fn last_n(value: f64) -> Result<Option<usize>, Failure> {
    let count = usize::try_from(whole(value)?).unwrap_or(usize::MAX);
    Ok(Some(count).filter(|&count| count > 0))
}

fn set_number(sampling: &mut Sampling, key: u32, value: f64) -> Result<(), Failure> {
    let number = Some(value as f32);
    match key {
        0 => sampling.temperature = number,
        1 => sampling.top_k = Some(whole(value)?),
        2 => sampling.top_p = number,
        3 => sampling.min_p = number,
        4 => sampling.typical_p = number,
        5 => sampling.repetition_penalty = number,
        6 => sampling.presence_penalty = number,
        7 => sampling.frequency_penalty = number,
        8 => sampling.penalty_last_n = last_n(value)?,
        9 => sampling.dry_multiplier = number,
        10 => sampling.dry_base = number,
        11 => sampling.dry_allowed_length = Some(whole(value)?),
        12 => sampling.dry_last_n = last_n(value)?,
        13 => sampling.xtc_probability = number,
        14 => sampling.xtc_threshold = number,
        15 if value == 0.0 => sampling.order = StageOrder::TemperatureFirst,
        15 if value == 1.0 => sampling.order = StageOrder::TemperatureLast,
        15 => return Err(Failure::argument(format!("{value} must be 0 or 1"))),
        other => return Err(Failure::argument(format!("there is no sampling option {other}"))),
    }
    Ok(())
}

/// Checks the ranges of the values, whatever the model's own are.
fn check(sampling: &Sampling) -> Result<(), Failure> {
    Ok(sampling.options(&GenerationConfig::default(), None).map(drop)?)
}

#[derive(Default)]
pub(crate) struct Options(Mutex<GenerationOptions>);

impl Object for Options {
    type Handle = kinglet_generation_options;
    const NAME: &'static str = "generation options";
}

/// A copy of the options of a handle; the defaults for null.
pub(crate) fn resolve(
    options: *const kinglet_generation_options,
) -> Result<GenerationOptions, Failure> {
    let Some(options) = handle::get_optional::<Options>(options)? else {
        return Ok(GenerationOptions::default());
    };
    let options = options.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(options.clone())
}

fn set(
    options: *mut kinglet_generation_options,
    change: impl FnOnce(&mut GenerationOptions) -> Result<(), Failure>,
) -> kinglet_status {
    call(|| {
        let options = handle::get::<Options>(options)?;
        change(&mut options.0.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

/// Maximum number of stop strings, and of stop tokens.
const MAX_STOPS: usize = 4096;

fn room(count: usize, what: &str) -> Result<(), Failure> {
    if count < MAX_STOPS {
        return Ok(());
    }
    let message = format!("more than {MAX_STOPS} {what}");
    Err(Failure::new(kinglet_status::KINGLET_TOO_LARGE, message))
}

/// Creates options that use the model's own settings. Free them with
/// `kinglet_generation_options_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_create(
    options: *mut *mut kinglet_generation_options,
) -> kinglet_status {
    call(|| {
        memory::check_out(options, "options")?;
        memory::write(options, "options", handle::insert(Arc::new(Options::default()))?)
    })
}

/// Deletes options. Null is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_delete(
    options: *mut kinglet_generation_options,
) -> kinglet_status {
    call(|| handle::delete::<Options>(options))
}

/// Sets a sampling option. `option` is an `enum kinglet_sampling`. A value out of range is an
/// error.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set(
    options: *mut kinglet_generation_options,
    option: u32,
    value: f64,
) -> kinglet_status {
    set(options, |options| {
        let mut alone = Sampling::new();
        set_number(&mut alone, option, value)?;
        check(&alone)?;
        set_number(&mut options.answer.sampling, option, value)
    })
}

/// Adds `bias` to the logit of `token`; negative infinity excludes the token.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_add_logit_bias(
    options: *mut kinglet_generation_options,
    token: u32,
    bias: f32,
) -> kinglet_status {
    set(options, |options| {
        check(&Sampling { logit_bias: vec![(token, bias)], ..Sampling::new() })?;
        let biases = &mut options.answer.sampling.logit_bias;
        biases.retain(|(other, _)| *other != token);
        biases.push((token, bias));
        Ok(())
    })
}

/// Sets the maximum number of tokens of the answer. 0, the default, is the model's own limit, or
/// 2048.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_max_tokens(
    options: *mut kinglet_generation_options,
    tokens: usize,
) -> kinglet_status {
    set(options, |options| {
        options.answer.max_tokens = Some(tokens).filter(|&tokens| tokens > 0);
        Ok(())
    })
}

/// Sets the random seed: the same seed, prompt and options give the same answer. By default each
/// answer has its own seed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_seed(
    options: *mut kinglet_generation_options,
    seed: u64,
) -> kinglet_status {
    set(options, |options| {
        options.answer.seed = Some(seed);
        Ok(())
    })
}

/// Adds a stop string. The answer ends before it would appear. Stop strings add to those of the
/// model.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_add_stop(
    options: *mut kinglet_generation_options,
    text: *const c_char,
) -> kinglet_status {
    set(options, |options| {
        let text = memory::string(text, "text")?;
        if text.is_empty() {
            return Err(Failure::argument("an empty stop string would end every answer"));
        }
        room(options.answer.stop_strings.len(), "stop strings")?;
        options.answer.stop_strings.push(text.into());
        Ok(())
    })
}

/// Adds a stop token to those of the model.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_add_stop_token(
    options: *mut kinglet_generation_options,
    token: u32,
) -> kinglet_status {
    set(options, |options| {
        room(options.answer.stop_tokens.len(), "stop tokens")?;
        options.answer.stop_tokens.push(token);
        Ok(())
    })
}

/// Sets whether the model's own stop tokens and strings end the answer (0, the default) or not (1).
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_ignore_eos(
    options: *mut kinglet_generation_options,
    ignore: i32,
) -> kinglet_status {
    set(options, |options| {
        options.answer.ignore_eos = ignore != 0;
        Ok(())
    })
}

/// Sets the maximum number of tokens of prompt and answer together, in addition to the session's
/// own limit. 0, the default, is the number of positions that the model was trained for, if it is
/// limited; `SIZE_MAX` is no limit.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_context_limit(
    options: *mut kinglet_generation_options,
    tokens: usize,
) -> kinglet_status {
    set(options, |options| {
        options.answer.context = match tokens {
            0 => Context::OfModel,
            usize::MAX => Context::Unlimited,
            tokens => Context::Tokens(tokens),
        };
        Ok(())
    })
}

/// Maximum number of tokens drafted in a step.
const MAX_GUESSES: usize = 64;

fn guesses(tokens: usize) -> Result<usize, Failure> {
    if tokens <= MAX_GUESSES {
        return Ok(tokens);
    }
    let message = format!("can't draft {tokens} tokens in a step: at most {MAX_GUESSES}");
    Err(Failure::new(kinglet_status::KINGLET_TOO_LARGE, message))
}

/// Drafts up to `tokens` tokens at a time from earlier occurrences of the last words and verifies
/// them in one step, which is faster when a text quotes or repeats. The answer is the same as
/// without. At most 64; 6 is usual; 0, the default, drafts nothing.
///
/// Between two calls of `kinglet_generation_next` the session is ahead of the answer: other calls
/// on it return `KINGLET_POISONED` until the answer is complete, stopped or deleted.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_speculation(
    options: *mut kinglet_generation_options,
    tokens: usize,
) -> kinglet_status {
    set(options, |options| {
        options.answer.lookup = guesses(tokens)?;
        Ok(())
    })
}

/// Like `kinglet_generation_options_set_speculation`, but `draft` drafts the tokens: a smaller
/// model with the same tokenizer. The options keep it in memory. Null removes it.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_draft_model(
    options: *mut kinglet_generation_options,
    draft: *const kinglet_model,
    tokens: usize,
) -> kinglet_status {
    set(options, |options| {
        let draft = handle::get_optional::<ModelObject>(draft)?;
        options.draft = draft.zip(Some(guesses(tokens)?)).filter(|(_, tokens)| *tokens > 0);
        Ok(())
    })
}

/// Like `kinglet_generation_options_set_speculation`, but the model's own prediction head drafts the
/// tokens. The model must have been opened with `kinglet_model_options_set_prediction_head`;
/// otherwise creating a generation with these options returns `KINGLET_INVALID_ARGUMENT`. 2 is
/// usual. A draft model that is set too goes before.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_head_speculation(
    options: *mut kinglet_generation_options,
    tokens: usize,
) -> kinglet_status {
    set(options, |options| {
        options.head_drafts = guesses(tokens)?;
        Ok(())
    })
}

/// Parses the caller's JSON.
pub(crate) fn json(text: *const c_char, name: &str) -> Result<Value, Failure> {
    let text = memory::string(text, name)?;
    serde_json::from_str(text).map_err(|error| {
        Failure::new(kinglet_status::KINGLET_TEXT, format!("{name} is not JSON: {error}"))
    })
}

/// Sets the tools that the model may call in a chat: a JSON list of descriptions in the form that
/// its template expects. Null for none.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_tools(
    options: *mut kinglet_generation_options,
    json: *const c_char,
) -> kinglet_status {
    set(options, |options| {
        options.tools = match json.is_null() {
            true => None,
            false => match self::json(json, "tools")? {
                Value::Array(tools) => Some(tools),
                _ => return Err(Failure::argument("tools must be a JSON list")),
            },
        };
        Ok(())
    })
}

/// Sets variables of the chat template: a JSON object such as `{"enable_thinking": false}`. Null
/// for none.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_variables(
    options: *mut kinglet_generation_options,
    json: *const c_char,
) -> kinglet_status {
    set(options, |options| {
        options.variables = match json.is_null() {
            true => Map::new(),
            false => match self::json(json, "variables")? {
                Value::Object(variables) => variables,
                _ => return Err(Failure::argument("variables must be a JSON object")),
            },
        };
        Ok(())
    })
}

/// Selects a chat template by name, if the model has several. Null selects the default: `tool_use`
/// if there are tools and a template of that name, else `default`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_template(
    options: *mut kinglet_generation_options,
    name: *const c_char,
) -> kinglet_status {
    set(options, |options| {
        options.template = match name.is_null() {
            true => None,
            false => Some(memory::string(name, "name")?.into()),
        };
        Ok(())
    })
}

/// Sets the time that a chat template sees, as local time in seconds since 1970 (UTC plus the time
/// zone's offset). The default is the current local time if `TZ` or `/etc/localtime` names the
/// zone, else (on Windows and Android) UTC.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_now(
    options: *mut kinglet_generation_options,
    seconds: i64,
) -> kinglet_status {
    set(options, |options| {
        if DateTime::from_unix(seconds).is_none() {
            return Err(Failure::argument(format!(
                "{seconds} seconds since 1970 are out of the calendar's range"
            )));
        }
        options.now = Some(seconds);
        Ok(())
    })
}
