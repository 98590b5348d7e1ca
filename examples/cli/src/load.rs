//! Opening what a command needs of a model folder.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kinglet::models::Mixer;
use kinglet::text::{GenerationConfig, StopTokens, Tokenizer};
use kinglet::{Model, ModelOptions};

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::progress::{Progress, Unit};
use crate::{interrupt, model_folder};

/// Opens the model that the options name, ready to run.
///
/// # Errors
/// When there is none, or it is broken or not supported; [`CliError::Interrupted`] on Ctrl-C.
pub(crate) fn model(
    global: &GlobalArgs,
    adjust: impl FnOnce(ModelOptions) -> ModelOptions,
) -> Result<Model, CliError> {
    let folder = model_folder::find(global.model.as_deref())?;
    model_in(&folder, global, adjust)
}

/// Opens the model in `folder`, otherwise as the options say.
///
/// # Errors
/// As [`model`].
pub(crate) fn model_in(
    folder: &Path,
    global: &GlobalArgs,
    adjust: impl FnOnce(ModelOptions) -> ModelOptions,
) -> Result<Model, CliError> {
    let mut options = ModelOptions::new().backend(global.backend).activations(global.activations);
    if let Some(threads) = global.threads {
        options = options.threads(usize::from(threads));
    }
    if let Some(adapter) = global.adapter {
        options = options.adapter(usize::from(adapter));
    }
    options = options.cache_type(global.kv_bits).state_type(global.state_bits);
    if let Some(window) = global.attention_window {
        options = options.attention_window(window, global.attention_sinks);
    }
    if let Some(folder) = cache_dir() {
        options = options.cache_dir(folder);
    }
    options = options.self_test(!global.no_self_test);
    let begun = Instant::now();
    let model = Model::open(folder, &adjust(options))?;
    log::info!("{}: {}, {}", folder.display(), model.spec().model_type, model.describe());
    fetch(&model)?;
    log::info!("loaded in {:.2} s", begun.elapsed().as_secs_f64());
    Ok(model)
}

/// Where drivers' compiled kernels and the results of self-tests are kept: the folder in the environment variable
/// `KINGLET_CACHE_DIR`, nowhere if that is empty; else the user's folder for such things.
fn cache_dir() -> Option<PathBuf> {
    match std::env::var_os("KINGLET_CACHE_DIR") {
        Some(folder) if folder.is_empty() => None,
        Some(folder) => Some(folder.into()),
        None => dirs::cache_dir().map(|folder| folder.join("kinglet")),
    }
}

/// Reads the weights into memory with a progress bar, so that nobody waits for the first token without knowing why.
/// Without a terminal they are read when they are needed.
fn fetch(model: &Model) -> Result<(), CliError> {
    let bytes = model.weights().total_bytes();
    // What does not fit would only be read in vain.
    let fits = available_memory().is_none_or(|available| bytes < available);
    if !io::stderr().is_terminal() || !fits {
        return Ok(());
    }
    let _guard = interrupt::guard();
    let mut progress = Progress::new("loading", Unit::Bytes);
    model.weights().touch(&mut |done, total| {
        progress.set(done, total);
        !interrupt::hit()
    })?;
    Ok(())
}

/// Bytes that can be had without swapping, where the system tells (Linux).
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The tokenizer of an open model, which refuses texts with tokens that the model lacks.
///
/// # Errors
/// When there is none or it is broken.
pub(crate) fn tokenizer(model: &Model) -> Result<Tokenizer, CliError> {
    Ok(Tokenizer::from_folder(model.folder())?.for_embedding(model.vocab()))
}

/// Whether the folder has a tokenizer at all.
pub(crate) fn has_tokenizer(folder: &Path) -> bool {
    folder.join("tokenizer.json").exists()
}

/// What the model's authors set for generation, and the tokens that end an answer.
///
/// # Errors
/// When a file that is there is broken.
pub(crate) fn defaults(
    folder: &Path,
    tokenizer: Option<&Tokenizer>,
) -> Result<(GenerationConfig, StopTokens), CliError> {
    let config = GenerationConfig::from_folder(folder)?;
    let stop = StopTokens::from_folder(folder, tokenizer)?;
    Ok((config, stop))
}

/// The most tokens of prompt and answer: what was asked for (0 is no limit), else what a model whose attention knows
/// positions was made for. Recurrent layers and attention without positions have no such end.
pub(crate) fn context_limit(model: &Model, given: Option<usize>) -> Option<usize> {
    let rotates =
        |mixer: &Mixer| matches!(mixer, Mixer::Attention(attention) if attention.rope.is_some());
    let branches = || model.spec().blocks.iter().flat_map(|block| &block.branches);
    match given {
        Some(0) => None,
        Some(limit) => Some(limit),
        None => {
            model.spec().max_positions.filter(|_| branches().any(|branch| rotates(&branch.mixer)))
        }
    }
}

/// The most tokens of an answer.
pub(crate) fn max_tokens(config: &GenerationConfig, given: Option<u32>, default: usize) -> usize {
    let limit = given.or(config.max_new_tokens.filter(|&limit| limit > 0));
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(default)
}

/// The stop strings of the command line and of the model.
pub(crate) fn stop_strings(config: &GenerationConfig, given: &[String]) -> Vec<String> {
    given.iter().chain(&config.stop_strings).cloned().collect()
}
