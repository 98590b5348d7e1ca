//! `kinglet quantize`: writes a checkpoint with fewer bits per weight, in MLX's layout.

use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Args, ValueHint};
use kinglet::calibrate::{Calibration, CalibrationOptions};
use kinglet::eval::TextTokens;
use kinglet::quantize::{
    DEFAULT_SHARD_BYTES, Format, Job, JobOptions, Method, Mode, QuantizeError, Recipe, Round,
    Search, WriteOptions,
};

use crate::args::{GlobalArgs, ModelArgs, count, threads};
use crate::error::CliError;
use crate::output::{self, Output};
use crate::progress::{Progress, Unit};
use crate::report::tell;
use crate::{interrupt, load, model_folder, table, tokens};

mod json;
mod tables;

/// The built-in recipe.
const MIXED: &str = "mixed";

const EXAMPLES: &str = "\
The output folder is an ordinary checkpoint that Kinglet and mlx-lm load. It
appears only when complete; a run that fails or is stopped leaves nothing.
Memory use is a few megabytes per thread, whatever the model.

Norms, biases, convolutions, A_log, D, dt_bias, routers and the gates of mLSTM
keep their type and bytes, and so do matrices whose rows are not whole groups
(listed by --tensors).

A recipe is a JSON list of rules. The first that matches a module's path
applies; * matches anything:
  [ {\"match\": \"*.down_proj\", \"bits\": 6},
    {\"match\": \"lm_head\", \"mode\": \"mxfp8\"},
    {\"match\": [\"*.layers.0.*\", \"model.embed_tokens\"], \"bits\": 8,
     \"group_size\": 32},
    {\"match\": \"*.x_proj\", \"keep\": true} ]
`--recipe mixed` gives more bits to the matrices that matter most in
measurements on the demo models (an embedding that is also the head, values,
projections that write to the residual stream, the last layer) and fewer to
experts.

Examples:
  kinglet quantize --model DIR --out DIR-4bit
  kinglet quantize --model DIR --out DIR-4bit --calibrate text.txt
                                                       about half the error
  kinglet quantize --model DIR --out DIR-4.8bit --recipe mixed --target-bits 4.8
  kinglet quantize --model DIR --out DIR-mxfp4 --mode mxfp4
  kinglet quantize --model DIR --bits 3 --dry-run      show the resulting size
  kinglet quantize --model DIR --dry-run --tensors     a row for each matrix
  kinglet quantize --model DIR --out OUT --json | jq .bits_per_weight";

/// Options of `quantize`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct QuantizeArgs {
    /// Folder to write; not needed with --dry-run [default: none]
    #[arg(long, short, value_name = "DIR", required_unless_present = "dry_run", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Bits per code: 2, 3, 4, 5, 6, 8 (affine) [default: 4]
    #[arg(long, short, value_name = "B")]
    bits: Option<usize>,
    /// Weights that share a scale: 32, 64, 128 (affine) [default: 64]
    #[arg(long, short, value_name = "G")]
    group_size: Option<usize>,
    /// Quantization mode
    #[arg(long, value_name = "MODE", default_value = "affine", value_parser = mode())]
    mode: Mode,
    /// File of rules, or `mixed`: more bits where they matter most [default: the same bits
    /// everywhere]
    #[arg(long, value_name = "FILE|mixed", value_hint = ValueHint::FilePath)]
    recipe: Option<PathBuf>,
    /// Average bits per weight with --recipe mixed [default: 0.3 more than without it]
    #[arg(long, value_name = "X", value_parser = target_bits)]
    target_bits: Option<f64>,
    /// How to choose codes and scales: search minimizes the error, round does as MLX
    #[arg(long, value_name = "NAME", default_value = "search", value_parser = ["search", "round"])]
    method: String,
    /// Text to calibrate with, similar to what the model will read [default: none]
    ///
    /// Codes are chosen to minimize the error of the matrices' outputs on it.
    #[arg(long, value_name = "TEXT", conflicts_with = "method", value_hint = ValueHint::FilePath)]
    calibrate: Option<PathBuf>,
    /// Maximum number of tokens of the text to use
    #[arg(long, value_name = "N", default_value_t = CalibrationOptions::default().tokens, requires = "calibrate", value_parser = count(), hide_short_help = true)]
    calibrate_tokens: usize,
    /// Memory for calibration statistics [default: 2GB]
    ///
    /// If it is too small, the text is read several times.
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "calibrate", hide_short_help = true)]
    calibration_memory: Option<u64>,
    /// Maximum size of a weights file, as in 500MB or 5GB (powers of 1024) [default: 5GB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_shard_size: Option<u64>,
    /// Replace an existing checkpoint in the folder
    #[arg(long)]
    force: bool,
    /// Only show what would be written
    #[arg(long)]
    dry_run: bool,
    /// Show the format of each matrix
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object, with every tensor
    #[arg(long)]
    json: bool,
    /// CPU threads [default: the number of physical cores]
    #[arg(long, short, value_name = "N", value_parser = threads())]
    threads: Option<u16>,
}

fn mode() -> ValueParser {
    let names = Mode::ALL.map(Mode::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Mode>()).into()
}

fn target_bits(text: &str) -> Result<f64, String> {
    let bits = text.parse::<f64>().ok().filter(|bits| (1.0..=32.0).contains(bits));
    bits.ok_or_else(|| "expected a number from 1 to 32".into())
}

/// Parses a size: an integer, optionally with B, KB, MB or GB.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => Some(0),
        "K" | "KB" | "KIB" => Some(10),
        "M" | "MB" | "MIB" => Some(20),
        "G" | "GB" | "GIB" => Some(30),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(shift);
    let bytes = bytes.and_then(|(number, shift)| number.checked_mul(1 << shift));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| "expected a size such as 500MB or 5GB".into())
}

/// Runs the command.
///
/// # Errors
/// Errors of options, recipe, model or output folder; [`CliError::Interrupted`] after Ctrl-C.
pub(crate) fn run(model: &ModelArgs, args: &QuantizeArgs) -> Result<(), CliError> {
    let format = Format::new(args.mode, args.bits, args.group_size)
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let options = JobOptions::new(format)
        .recipe(recipe(args, format)?)
        .max_shard_bytes(args.max_shard_size.unwrap_or(DEFAULT_SHARD_BYTES))
        .strict(model.strict);
    let folder = model_folder::find(model.model.as_deref())?;
    let job = Job::open(&folder, &options)?;
    for pattern in job.unused_rules() {
        tell(&format!(
            "warning: the rule for {pattern} matches no matrix that earlier rules leave; a matrix is named, for example, {}",
            job.tensors().iter().find(|tensor| tensor.role.is_some()).map_or("", |t| t.path())
        ));
    }
    let mut output =
        Output::new(if args.json { output::Format::Json } else { output::Format::Text });
    let Some(out) = args.out.as_deref().filter(|_| !args.dry_run) else {
        if let Some(out) = &args.out {
            job.check_out(out, args.force).map_err(kinglet::Error::from)?;
        }
        return match args.json {
            true => output.event(&json::plan(&job)),
            false => output.styled(&tables::plan(&job, args.tensors, table::width())),
        };
    };
    let method: Box<dyn Method> = match (&args.calibrate, args.method.as_str()) {
        (Some(text), _) => {
            // Check before minutes of work, not after.
            job.check_out(out, args.force).map_err(kinglet::Error::from)?;
            Box::new(calibration(model, args, &job, text)?)
        }
        (None, "round") => Box::new(Round),
        (None, _) => Box::new(Search),
    };
    let report = write(args, &job, out, &*method)?;
    match args.json {
        true => output.event(&json::report(&job, &report, out)),
        false => output.styled(&tables::report(&report, out, args.tensors, table::width())),
    }
}

fn recipe(args: &QuantizeArgs, format: Format) -> Result<Recipe, CliError> {
    let mixed = args.recipe.as_deref() == Some(Path::new(MIXED));
    if args.target_bits.is_some() && !mixed {
        return Err(CliError::Usage("--target-bits needs --recipe mixed".into()));
    }
    match &args.recipe {
        None => Ok(Recipe::Uniform),
        Some(_) if mixed => Ok(Recipe::Mixed { bits_per_weight: args.target_bits }),
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|source| CliError::Read { path: path.clone(), source })?;
            Recipe::parse(&text, format).map_err(|error| match error {
                QuantizeError::Recipe { problem } => {
                    CliError::Contents { path: path.clone(), problem }
                }
                error => kinglet::Error::from(error).into(),
            })
        }
    }
}

fn calibration(
    model: &ModelArgs,
    args: &QuantizeArgs,
    job: &Job,
    text: &Path,
) -> Result<Calibration<'static>, CliError> {
    // Calibration runs on the CPU only.
    let on_cpu = GlobalArgs::on_cpu(model.model.clone(), args.threads);
    let model = load::model(&on_cpu, |options| options)?;
    let text = TextTokens::new(&load::tokenizer(&model)?, &tokens::read_text(text)?)?;
    let mut options = CalibrationOptions { tokens: args.calibrate_tokens, ..Default::default() };
    if let Some(memory) = args.calibration_memory {
        options.memory = memory;
    }
    let _guard = interrupt::guard();
    let mut bar = Some(Progress::new("reading the text", Unit::Tokens));
    let progress = move |done, total| {
        if let Some(shown) = &mut bar {
            shown.set(done, total);
        }
        // Later passes happen while the progress bar of the whole task is shown.
        if done >= total {
            bar = None;
        }
        !interrupt::hit()
    };
    let calibration = Calibration::new(&model, job, &text, options, Box::new(progress))?;
    calibration.gather().map_err(stopped)?;
    Ok(calibration)
}

/// Only Ctrl-C cancels.
fn stopped(error: kinglet::Error) -> CliError {
    match error {
        kinglet::Error::Quantize(QuantizeError::Cancelled) => CliError::Interrupted,
        error => error.into(),
    }
}

fn write(
    args: &QuantizeArgs,
    job: &Job,
    out: &Path,
    method: &dyn Method,
) -> Result<kinglet::quantize::Report, CliError> {
    let mut options = WriteOptions::new().replace(args.force);
    if let Some(threads) = args.threads {
        options = options.threads(usize::from(threads));
    }
    let _guard = interrupt::guard();
    let mut progress = Progress::new("quantizing", Unit::Bytes);
    let written = job.write(out, method, &options, &mut |done, total| {
        progress.set(done, total);
        !interrupt::hit()
    });
    written.map_err(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(size("5GB"), Ok(5 << 30));
        assert_eq!(size("500 mb"), Ok(500 << 20));
        assert_eq!(size("4096"), Ok(4096));
        for text in ["", "GB", "0", "-1GB", "5TB", "99999999999GB", "1.5GB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
