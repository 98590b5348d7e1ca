//! How an answer is generated.

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

/// How an answer is generated. New options hold what the model's authors set. They are copied when a generation begins, so that they can be
/// changed and deleted afterwards. Any thread may use them.
pub struct kinglet_generation_options;

/// Numbers that say how a token is chosen. What is not set is what the model's `generation_config.json` says, and else the value in brackets, which changes
/// nothing. A model that is greedy by itself draws when something is set that only makes sense for draws, then with a top-k of 50 unless it is set, as
/// transformers does.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_sampling {
    /// Divisor of the logits (1); 0 takes the most probable token, always.
    KINGLET_TEMPERATURE = 0,
    /// Only so many of the most probable tokens (0: all).
    KINGLET_TOP_K = 1,
    /// Only the most probable tokens that together have this probability (1).
    KINGLET_TOP_P = 2,
    /// Only tokens with at least this share of the most probable one's probability (0).
    KINGLET_MIN_P = 3,
    /// Only the most typical tokens that together have this probability (1).
    KINGLET_TYPICAL_P = 4,
    /// Makes tokens less likely that are in the text already (1).
    KINGLET_REPETITION_PENALTY = 5,
    /// Subtracted from the logits of tokens that are in the text already (0).
    KINGLET_PRESENCE_PENALTY = 6,
    /// The same, once for each time that the token is there (0).
    KINGLET_FREQUENCY_PENALTY = 7,
    /// How many of the last tokens the three penalties look at (0: all).
    KINGLET_PENALTY_LAST_N = 8,
    /// Strength of the penalty on repeated sequences, "DRY" (0).
    KINGLET_DRY_MULTIPLIER = 9,
    /// Its growth with each token, at least 1 (1.75).
    KINGLET_DRY_BASE = 10,
    /// Repetitions shorter than this are free (2).
    KINGLET_DRY_ALLOWED_LENGTH = 11,
    /// How many of the last tokens it looks at (0: all).
    KINGLET_DRY_LAST_N = 12,
    /// How often the most probable tokens are excluded, "XTC" (0).
    KINGLET_XTC_PROBABILITY = 13,
    /// The probability from which on they are (0.1).
    KINGLET_XTC_THRESHOLD = 14,
    /// 1 applies the temperature after the stages that cut, as llama.cpp does; 0 before, as transformers does (0).
    KINGLET_TEMPERATURE_LAST = 15,
}

#[derive(Clone, Default)]
pub(crate) struct GenerationOptions {
    pub(crate) answer: AnswerOptions,
    /// A model that guesses, and how many tokens of a step.
    pub(crate) draft: Option<(Arc<ModelObject>, usize)>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) variables: Map<String, Value>,
    /// The name of the chat template.
    pub(crate) template: Option<String>,
    /// The local time of a chat, in seconds since 1970.
    pub(crate) now: Option<i64>,
}

/// A whole number from 0 that a float stands for.
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

/// That values are in their ranges, whatever the model's own are.
fn check(sampling: &Sampling) -> Result<(), Failure> {
    Ok(sampling.options(&GenerationConfig::default(), None).map(drop)?)
}

#[derive(Default)]
pub(crate) struct Options(Mutex<GenerationOptions>);

impl Object for Options {
    type Handle = kinglet_generation_options;
    const NAME: &'static str = "generation options";
}

/// A copy of the options that a handle means; the defaults for null.
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

/// The most stop strings and stop tokens, each.
const MAX_STOPS: usize = 4096;

fn room(count: usize, what: &str) -> Result<(), Failure> {
    if count < MAX_STOPS {
        return Ok(());
    }
    let message = format!("more than {MAX_STOPS} {what}");
    Err(Failure::new(kinglet_status::KINGLET_TOO_LARGE, message))
}

/// Options that hold what the model's authors set. They are the program's: `kinglet_generation_options_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_create(
    options: *mut *mut kinglet_generation_options,
) -> kinglet_status {
    call(|| {
        memory::check_out(options, "options")?;
        memory::write(options, "options", handle::insert(Arc::new(Options::default()))?)
    })
}

/// Deletes options. Null is fine.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_delete(
    options: *mut kinglet_generation_options,
) -> kinglet_status {
    call(|| handle::delete::<Options>(options))
}

/// Sets a number that says how a token is chosen: `option` is an `enum kinglet_sampling`. What is out of its range is refused.
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

/// Adds `bias` to the logit of `token`; negative infinity rules the token out.
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

/// The most tokens of the answer; 0, the default, is what the model says, or 2048.
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

/// What the random numbers begin with: the same seed, prompt and options give the same answer. Without it, each answer has its own.
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

/// Ends the answer where this text would appear, which is then not part of it. Any number may be added, to those of the model.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_add_stop(
    options: *mut kinglet_generation_options,
    text: *const c_char,
) -> kinglet_status {
    set(options, |options| {
        let text = memory::string(text, "text")?;
        if text.is_empty() {
            return Err(Failure::argument("an empty stop text would stop everything"));
        }
        room(options.answer.stop_strings.len(), "stop texts")?;
        options.answer.stop_strings.push(text.into());
        Ok(())
    })
}

/// Ends the answer with this token, besides those of the model.
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

/// Whether the model's own stop tokens and texts end the answer (0, the default) or not (1).
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

/// The most tokens of prompt and answer together, besides the session's own limit. 0, the default, is what the positions of the model were made for, if they
/// end; `SIZE_MAX` is no limit.
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

/// The most tokens of a step that are guessed.
const MAX_GUESSES: usize = 64;

fn guesses(tokens: usize) -> Result<usize, Failure> {
    if tokens <= MAX_GUESSES {
        return Ok(tokens);
    }
    let message = format!("{tokens} guesses of a step are too many: at most {MAX_GUESSES}");
    Err(Failure::new(kinglet_status::KINGLET_TOO_LARGE, message))
}

/// Guesses up to `tokens` tokens at a time by what followed the same words before, and verifies them in one step: faster where a text quotes or repeats. The answer is
/// the one without. At most 64; 6 is usual; 0, the default, guesses nothing.
///
/// Between two calls of `kinglet_generation_next` such an answer has the session ahead of its tokens: other calls on it get `KINGLET_POISONED` until the answer is
/// complete, stopped or deleted.
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

/// The same with the guesses of `draft`, a smaller model with the same tokenizer, which the options keep. Null for none.
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

/// Parses JSON that a program gave.
pub(crate) fn json(text: *const c_char, name: &str) -> Result<Value, Failure> {
    let text = memory::string(text, name)?;
    serde_json::from_str(text).map_err(|error| {
        Failure::new(kinglet_status::KINGLET_TEXT, format!("{name} is not JSON: {error}"))
    })
}

/// Tools that the model may call in a chat: a JSON list of their descriptions, as its template wants them. Null for none.
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

/// Variables that the chat template sees: a JSON object, as `{"enable_thinking": false}`. Null for none.
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

/// Which of the model's chat templates to use, by name, where it has several. Null for the default: `tool_use` if there are tools and such a template, else `default`.
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

/// The time that a chat template sees, as seconds since 1970 by the clock on the wall (UTC and the time zone's offset). Without it, the local time now where the system
/// tells the zone in `TZ` or `/etc/localtime`, else (on Windows and Android) the time in UTC.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_options_set_now(
    options: *mut kinglet_generation_options,
    seconds: i64,
) -> kinglet_status {
    set(options, |options| {
        if DateTime::from_unix(seconds).is_none() {
            return Err(Failure::argument(format!("{seconds} seconds are beyond all calendars")));
        }
        options.now = Some(seconds);
        Ok(())
    })
}
