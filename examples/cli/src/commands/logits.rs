//! `kinglet logits`: the logits after each token of a sequence, written as safetensors.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use kinglet::Model;
use serde_json::json;

use crate::args::GlobalArgs;
use crate::atomic::AtomicFile;
use crate::error::CliError;
use crate::progress::{Progress, Unit};
use crate::{interrupt, load, tokens};

/// Default number of tokens that the engine computes in one step.
const STEP: usize = 512;
/// Without `--chunk`, at most this many bytes of logits are in memory.
const MAX_BYTES: usize = 256 << 20;

const EXAMPLES: &str = "\
The file has `logits`, F32 [tokens, vocabulary], and `tokens`, I64 [tokens]. It
is written atomically. No tokenizer is needed.

Examples:
  kinglet logits --model DIR --tokens 1,2,3 --out logits.safetensors
  kinglet logits --model DIR --tokens-file ids.txt --chunk 7 --out l.safetensors
  python -c \"from safetensors.torch import load_file as f; print(f('l.safetensors'))\"";

/// Options of `logits`.
#[derive(Args)]
// clap's own usage line is wider than a terminal.
#[command(after_help = EXAMPLES, override_usage = "kinglet logits [OPTIONS] --out FILE <--tokens IDS|--tokens-file FILE>")]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    input: Input,
    /// Tokens to compute at a time; does not change the result [default: 512, fewer for a large
    /// vocabulary]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    chunk: Option<u32>,
    /// File to write
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: PathBuf,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// Token ids, as in 1,2,3
    #[arg(long, value_name = "IDS")]
    tokens: Option<String>,
    /// File with token ids, separated by commas or white space; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tokens_file: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Errors of options, files or model; [`CliError::Interrupted`] after Ctrl-C.
pub(crate) fn run(global: &GlobalArgs, args: &LogitsArgs) -> Result<(), CliError> {
    let ids = match (&args.input.tokens, &args.input.tokens_file) {
        (Some(text), _) => tokens::parse(text)
            .map_err(|problem| CliError::Usage(format!("--tokens: {problem}")))?,
        (None, Some(path)) => tokens::from_file(path)?,
        (None, None) => return Err(CliError::EmptyPrompt),
    };
    let chunk = args.chunk.and_then(|chunk| usize::try_from(chunk).ok());
    // A chunk is one step of the engine, whatever its length.
    let model = load::model(global, |options| options.chunk(chunk.unwrap_or(STEP)))?;
    let chunk = chunk.unwrap_or_else(|| (MAX_BYTES / 4 / model.vocab().max(1)).clamp(1, STEP));
    let header = header(&model, ids.len())?;
    // Check before hours of work, not after.
    check_ids(&model, &ids)?;
    let mut file = AtomicFile::create(&args.out)?;
    file.write(&header)?;
    for id in &ids {
        file.write(&i64::from(*id).to_le_bytes())?;
    }

    let _guard = interrupt::guard();
    let mut session = model.session()?;
    let mut progress = Progress::new("computing", Unit::Tokens);
    let mut bytes = Vec::new();
    for piece in ids.chunks(chunk) {
        if interrupt::hit() {
            return Err(CliError::Interrupted);
        }
        let logits = session.feed_all(piece)?;
        for row in logits.chunks(model.vocab().max(1)) {
            bytes.clear();
            bytes.extend(row.iter().flat_map(|logit| logit.to_le_bytes()));
            file.write(&bytes)?;
        }
        progress.set(session.position() as u64, ids.len() as u64);
    }
    file.commit()
}

fn check_ids(model: &Model, ids: &[u32]) -> Result<(), CliError> {
    let vocab = model.vocab();
    match ids.iter().position(|&id| usize::try_from(id).map_or(true, |id| id >= vocab)) {
        Some(index) => {
            let id = ids.get(index).copied().unwrap_or_default();
            Err(kinglet::Error::TokenOutOfRange { id, index, vocab }.into())
        }
        None => Ok(()),
    }
}

/// Length and JSON of the header. The tokens come first, which aligns both tensors to 8 bytes.
fn header(model: &Model, tokens: usize) -> Result<Vec<u8>, CliError> {
    let vocab = model.vocab();
    let ids = tokens.checked_mul(8);
    let end = tokens.checked_mul(vocab).and_then(|n| n.checked_mul(4)).zip(ids);
    let (ids, end) = end
        .and_then(|(logits, ids)| Some((ids, ids.checked_add(logits)?)))
        .ok_or(kinglet::Error::OutOfMemory { what: "the logits file", bytes: usize::MAX })?;
    let json = json!({
        "__metadata__": { "format": "pt", "model_type": model.spec().model_type, "backend": model.describe() },
        "tokens": { "dtype": "I64", "shape": [tokens], "data_offsets": [0, ids] },
        "logits": { "dtype": "F32", "shape": [tokens, vocab], "data_offsets": [ids, end] },
    });
    let mut json = json.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
