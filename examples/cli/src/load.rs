//! Opening a model and its tokenizer for a command.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kinglet::text::Tokenizer;
use kinglet::{Model, ModelOptions};

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::progress::{Progress, Unit};
use crate::{interrupt, model_folder};

/// Opens the model that the options name and makes it ready to run.
///
/// # Errors
/// If there is no model, or it is broken or not supported; [`CliError::Interrupted`] on Ctrl-C.
pub(crate) fn model(
    global: &GlobalArgs,
    adjust: impl FnOnce(ModelOptions) -> ModelOptions,
) -> Result<Model, CliError> {
    let folder = model_folder::find(global.model.as_deref())?;
    model_in(&folder, global, adjust)
}

/// Opens the model in `folder`, with the other options.
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
    options = options.self_test(!global.no_self_test).strict(global.strict);
    let begun = Instant::now();
    let model = Model::open(folder, &adjust(options))?;
    log::info!("{}: {}, {}", folder.display(), model.spec().model_type, model.describe());
    fetch(&model)?;
    log::info!("loaded in {:.2} s", begun.elapsed().as_secs_f64());
    Ok(model)
}

/// Folder for compiled kernels and results of self-tests: the environment variable
/// `KINGLET_CACHE_DIR` (empty means no folder), or else the user's cache folder.
fn cache_dir() -> Option<PathBuf> {
    match std::env::var_os("KINGLET_CACHE_DIR") {
        Some(folder) if folder.is_empty() => None,
        Some(folder) => Some(folder.into()),
        None => dirs::cache_dir().map(|folder| folder.join("kinglet")),
    }
}

/// Reads the weights into memory with a progress bar, so that the first token does not wait without
/// explanation. Without a terminal they are read when needed.
fn fetch(model: &Model) -> Result<(), CliError> {
    let bytes = model.weights().total_bytes();
    // If they don't all fit, reading them ahead gains nothing.
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

/// Bytes available without swapping, if the system tells (Linux).
pub(crate) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The tokenizer of an open model, which refuses tokens that the model lacks.
///
/// # Errors
/// If there is none or it is broken.
pub(crate) fn tokenizer(model: &Model) -> Result<Tokenizer, CliError> {
    Ok(Tokenizer::from_folder(model.folder())?.for_embedding(model.vocab()))
}

/// Whether the folder has a tokenizer.
pub(crate) fn has_tokenizer(folder: &Path) -> bool {
    // A tokenizer that can't be read must be an error, not ignored.
    std::fs::symlink_metadata(folder.join("tokenizer.json")).is_ok()
}
