//! `kinglet inspect`: a model's structure, memory and ops. Reads `config.json` and the headers of
//! the weights, and the weights themselves only for `--check`.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use kinglet::analysis::{Parameters, StateMemory, WorkPerToken};
use kinglet::models::PRESETS;
use kinglet::plan::Plan;
use kinglet::weights::{CheckOptions, Checked, Weights, WeightsError};
use kinglet::{Checkpoint, Error, ModelSpec};

use crate::args::{ModelArgs, count};
use crate::atomic::AtomicFile;
use crate::commands::init;
use crate::error::CliError;
use crate::output::{Format, Output};
use crate::progress::{Progress, Unit};
use crate::{interrupt, model_folder, table};

mod blocks;
mod experts;
mod formats;
mod html;
mod json;
mod tables;
#[cfg(test)]
mod tests;

use blocks::LayerRun;
use formats::StoredRow;

/// Contexts that memory is shown for.
const CONTEXTS: [usize; 5] = [1 << 10, 1 << 12, 1 << 13, 1 << 15, 1 << 17];
/// Tokens of a prefill step, for the size of its buffers.
const STEP: usize = 512;

const EXAMPLES: &str = "\
Reads only the headers of the weights. config.json alone is enough for
everything but the sizes of stored weights.

Active parameters exclude the experts that a token does not use. A head that is
tied to the embedding counts once, as embedding. Memory is for one session.
FLOPs are those of the last token of the context in decode, a multiply-add being
two: products with matrices, scans (with convolutions), and attention. Norms,
activations and gates are not counted.

--plan, --tensors, --check, --experts and --report replace the summary; with
--json they add to it. The report is one file that needs no network.

Examples:
  kinglet inspect --model DIR --context 131072
  kinglet inspect --model DIR --plan
  kinglet inspect --preset ultra-52b           sizes without a checkpoint
  kinglet inspect --model DIR --tensors        show how each tensor is stored
  kinglet inspect --model DIR --check          look for NaN and infinity
  kinglet inspect --model DIR --report model.html
  kinglet inspect --model DIR --experts --text book.txt
  kinglet inspect --model DIR --json | jq .parameters";

/// Options of `inspect`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// Number of tokens in the context, for memory and traffic
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = count())]
    context: usize,
    /// Show a configuration by name instead of a model folder
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(PRESETS), hide_possible_values = true)]
    preset: Option<String>,
    /// Factor on the sizes of the preset
    #[arg(long, value_name = "S", default_value_t = 1.0, requires = "preset", value_parser = init::scale)]
    scale: f64,
    /// List the ops that the model runs as, and nothing else
    #[arg(long)]
    plan: bool,
    /// List all tensors (shape, format, bits per weight), and nothing else
    #[arg(long)]
    tensors: bool,
    /// Check all weights for NaN and infinity, and print nothing else
    #[arg(long)]
    check: bool,
    /// Run a text and show how often each expert is used, and nothing else
    #[arg(long, requires = "text")]
    experts: bool,
    /// Text for --experts, UTF-8; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "experts")]
    text: Option<PathBuf>,
    /// Write a page with plots to FILE, and print nothing else
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    report: Option<PathBuf>,
    /// Memory bandwidth in GB/s, for the speeds in the report
    #[arg(long, value_name = "GB/S", default_value_t = 50.0, requires = "report", value_parser = bandwidth)]
    bandwidth: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Everything that `inspect` reports.
struct Report {
    folder: PathBuf,
    spec: ModelSpec,
    plan: Plan,
    layers: Vec<LayerRun>,
    parameters: Parameters,
    work: WorkPerToken,
    stored: Option<Stored>,
    memory: Memory,
}

/// Information from the headers of the weights.
struct Stored {
    bytes: u64,
    by_dtype: Vec<(String, u64)>,
    tensors: usize,
    /// The tensors that the model needs.
    rows: Vec<StoredRow>,
    files: usize,
    checked: Checked,
    traffic: kinglet::Traffic,
}

/// Memory of one session and of the weights, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    context: usize,
    /// `None` without weights.
    weights: Option<u64>,
    recurrent: u64,
    key_value: u64,
    prefill_tokens: usize,
    prefill_buffers: u64,
    decode_buffers: u64,
}

impl Memory {
    fn new(plan: &Plan, context: usize, weights: Option<u64>) -> Self {
        let StateMemory { recurrent, key_value, .. } = StateMemory::of(plan, context);
        let prefill_tokens = context.min(STEP);
        Self {
            context,
            weights,
            recurrent,
            key_value,
            prefill_tokens,
            prefill_buffers: plan.buffer_bytes(prefill_tokens) as u64,
            decode_buffers: plan.buffer_bytes(1) as u64,
        }
    }

    /// The maximum, reached during prefill; `None` without weights.
    fn total(&self) -> Option<u64> {
        let parts = [self.recurrent, self.key_value, self.prefill_buffers];
        parts.into_iter().try_fold(self.weights?, u64::checked_add)
    }
}

/// The model of a preset.
fn preset_spec(name: &str, scale: f64) -> Result<ModelSpec, CliError> {
    init::spec_of(&init::config(name, scale)?, &Path::new(name).join("config.json"))
}

/// A bandwidth in GB/s.
fn bandwidth(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.001..=1e6).contains(&speed) => Ok(speed),
        _ => Err("expected a number of GB/s from 0.001 to 1000000".into()),
    }
}

/// Runs the command.
///
/// # Errors
/// If there is no model, or it is broken or not supported, or `--check` finds a non-finite weight;
/// [`CliError::Interrupted`] after Ctrl-C.
pub(crate) fn run(model: &ModelArgs, args: &InspectArgs) -> Result<(), CliError> {
    let (folder, checkpoint, preset) = match &args.preset {
        Some(name) => (PathBuf::from(name), None, Some(preset_spec(name, args.scale)?)),
        None => {
            let folder = model_folder::find(model.model.as_deref())?;
            let checkpoint = match Checkpoint::open(&folder, CheckOptions { strict: model.strict })
            {
                Ok(checkpoint) => Some(checkpoint),
                // A config without weights describes a model too.
                Err(Error::Weights(WeightsError::NoWeights { .. })) => None,
                Err(error) => return Err(error.into()),
            };
            (folder, checkpoint, None)
        }
    };
    for (asked, flag) in
        [(args.check, "--check"), (args.tensors, "--tensors"), (args.experts, "--experts")]
    {
        if asked && checkpoint.is_none() {
            let problem = format!("{flag} needs weights, but the folder has none");
            return Err(CliError::Contents { path: folder, problem });
        }
    }
    let (spec, weights) = match checkpoint {
        Some(Checkpoint { spec, weights, checked, .. }) => (spec, Some((weights, checked))),
        None => (preset.map_or_else(|| kinglet::read_spec(&folder), Ok)?, None),
    };
    let stored = weights.as_ref().map(|(weights, checked)| (weights, checked));
    let report = Report::new(folder, spec, stored, args.context)?;
    let weights = weights.map(|(weights, _)| weights);
    if let Some(path) = &args.report {
        let page = html::page(&report, weights.as_ref(), args.bandwidth);
        let mut file = AtomicFile::create(path)?;
        file.write(page.as_bytes())?;
        file.commit()?;
    }
    let used = match (&args.text, args.experts) {
        (Some(text), true) => Some(experts::count(&report.folder, text, model.strict)?),
        _ => None,
    };
    let format = if args.json { Format::Json } else { Format::Text };
    let mut output = Output::new(format);
    // Print the tables first: the check may take minutes.
    if format == Format::Text {
        let width = table::width();
        let mut parts = Vec::new();
        if let Some(stored) = report.stored.as_ref().filter(|_| args.tensors) {
            parts.push(tables::tensors(stored, width));
        }
        if let Some(used) = &used {
            parts.push(experts::table(used, width));
        }
        if args.plan {
            parts.push(tables::plan(&report, width));
        }
        if !args.plan && !args.tensors && !args.check && args.report.is_none() && !args.experts {
            parts.push(tables::summary(&report, width));
        }
        output.styled(&parts.join("\n"))?;
    }
    let scanned = match weights.filter(|_| args.check) {
        Some(weights) => Some(scan(&weights, &report.spec)?),
        None => None,
    };
    match (format, scanned) {
        (Format::Text, Some(bytes)) => {
            output.text(&format!("No NaN or infinity in {}.\n", table::bytes(bytes)))
        }
        (Format::Text, None) => Ok(()),
        (Format::Json, scanned) => {
            let mut value = json::report(&report, args.plan, args.tensors, scanned);
            if let Some(used) = &used {
                value["experts"] = experts::to_json(used);
            }
            output.event(&value)
        }
    }
}

impl Report {
    fn new(
        folder: PathBuf,
        spec: ModelSpec,
        weights: Option<(&Weights, &Checked)>,
        context: usize,
    ) -> Result<Self, CliError> {
        let plan = Plan::new(&spec);
        let stored = weights
            .map(|(weights, checked)| Stored::new(weights, checked, &spec, &plan, context))
            .transpose()?;
        let memory = Memory::new(&plan, context, stored.as_ref().map(|stored| stored.bytes));
        Ok(Self {
            layers: blocks::layers(&spec),
            parameters: Parameters::of(&spec),
            work: WorkPerToken::of(&spec, context),
            folder,
            spec,
            plan,
            stored,
            memory,
        })
    }
}

impl Report {
    /// The state of a session at each of [`CONTEXTS`].
    fn contexts(&self) -> Vec<StateMemory> {
        CONTEXTS.iter().map(|&context| StateMemory::of(&self.plan, context)).collect()
    }
}

impl Stored {
    fn new(
        weights: &Weights,
        checked: &Checked,
        spec: &ModelSpec,
        plan: &Plan,
        context: usize,
    ) -> Result<Self, CliError> {
        let files: std::collections::BTreeSet<&str> =
            weights.tensors().map(|tensor| tensor.file).collect();
        Ok(Self {
            bytes: weights.total_bytes(),
            by_dtype: weights.bytes_by_dtype().into_iter().collect(),
            tensors: weights.names().count(),
            files: files.len(),
            rows: formats::rows(spec, weights)?,
            checked: checked.clone(),
            traffic: kinglet::Traffic::of_decode(plan, weights, context)?,
        })
    }
}

/// Checks every weight; returns the number of bytes checked.
fn scan(weights: &Weights, spec: &ModelSpec) -> Result<u64, CliError> {
    let _guard = interrupt::guard();
    let mut progress = Progress::new("checking", Unit::Bytes);
    let mut seen = 0;
    weights.scan_non_finite(spec, &mut |done, total| {
        seen = done;
        progress.set(done, total);
        !interrupt::hit()
    })?;
    Ok(seen)
}
