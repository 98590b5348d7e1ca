//! `kinglet init`: a checkpoint with random weights.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use kinglet::ModelSpec;
use kinglet::init::{InitOptions, init};
use kinglet::models::{Config, PRESETS, preset};
use kinglet::quant::DType;
use serde_json::json;

use crate::error::CliError;
use crate::interrupt;
use crate::output::{Format, Output};
use crate::paths;
use crate::progress::{Progress, Unit};
use crate::table::{bytes, grouped, width, wrapped};
use crate::tokens;

const EXAMPLES: &str = "\
The folder holds config.json and weights: norms of 1, decays and steps as their
papers initialise them, normal projections, smaller where they write to the
residual stream. The same seed gives the same bytes. It appears only when
complete; a run that fails or is stopped leaves nothing.

A scale multiplies widths (rounded to a multiple of 64), the depth (rounded up
to whole patterns) and the number of experts (to the next power of two).
`kinglet inspect --preset NAME` shows the sizes without writing anything.

Examples:
  kinglet init --preset hybrid-base --out DIR
  kinglet init --preset ultra-52b --scale 0.02 --dtype f32 --out DIR
  kinglet init --config config.json --seed 7 --out DIR";

/// Options of `init`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InitArgs {
    /// Configuration by name
    #[arg(long, value_name = "NAME", required_unless_present = "config", conflicts_with = "config", value_parser = PossibleValuesParser::new(PRESETS))]
    preset: Option<String>,
    /// Factor on the sizes of the preset
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Configuration in a file, of any supported family [default: none]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Type of the weights
    #[arg(long, value_name = "TYPE", default_value = "bf16", value_parser = ["bf16", "f32"])]
    dtype: String,
    /// Seed of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder to write
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Replace a checkpoint that is there
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A factor on sizes.
///
/// # Errors
/// If it is not a number from 0.001 to 10.
pub(crate) fn scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.001..=10.0).contains(&scale) => Ok(scale),
        _ => Err("expected a number from 0.001 to 10".into()),
    }
}

/// The config.json of a preset.
///
/// # Errors
/// If there is no preset of this name.
pub(crate) fn config(name: &str, scale: f64) -> Result<String, CliError> {
    let found = preset(name, scale).map(|config| format!("{config:#}"));
    found.ok_or_else(|| {
        CliError::Usage(format!("no preset is called {name}; there are {}", PRESETS.join(", ")))
    })
}

/// The model that a config.json describes; `path` is for messages.
///
/// # Errors
/// If it is not one that Kinglet computes.
pub(crate) fn spec_of(config: &str, path: &Path) -> Result<ModelSpec, CliError> {
    let spec = Config::parse(config).and_then(|config| kinglet::models::spec(&config));
    spec.map_err(|source| kinglet::Error::Config { path: path.into(), source }.into())
}

/// Runs the command.
///
/// # Errors
/// If the config is not supported or the folder can't be written; [`CliError::Interrupted`] after Ctrl-C.
pub(crate) fn run(args: &InitArgs) -> Result<(), CliError> {
    let (text, path) = match (&args.preset, &args.config) {
        (Some(name), _) => (config(name, args.scale)?, Path::new(name).join("config.json")),
        (None, Some(path)) => (tokens::read_text(path)?, path.clone()),
        (None, None) => return Err(CliError::Usage("--preset or --config is needed".into())),
    };
    // Only here is the file's name known.
    spec_of(&text, &path)?;
    let dtype = if args.dtype == "f32" { DType::F32 } else { DType::BF16 };
    let options = InitOptions::new().dtype(dtype).seed(args.seed).replace(args.force);
    let out = paths::expand(&args.out);
    let guard = interrupt::guard();
    let mut progress = Progress::new("writing", Unit::Bytes);
    let written = init(&text, &out, &options, &mut |done, total| {
        progress.set(done, total);
        !interrupt::hit()
    });
    drop(progress);
    if interrupt::hit() && written.is_err() {
        return Err(CliError::Interrupted);
    }
    drop(guard);
    let report = written?;
    let size: u64 = report.files.iter().map(|(_, size)| size).sum();
    let mut output = Output::new(if args.json { Format::Json } else { Format::Text });
    if args.json {
        let files =
            report.files.iter().map(|(name, bytes)| json!({ "name": name, "bytes": bytes }));
        return output.event(&json!({
            "out": out,
            "parameters": report.parameters,
            "tensors": report.tensors,
            "files": files.collect::<Vec<_>>(),
        }));
    }
    let line = format!(
        "{}: {} parameters in {} tensors, {}",
        out.display(),
        grouped(report.parameters),
        report.tensors,
        bytes(size)
    );
    output.styled(&wrapped(&line, "  ", width()))
}
