//! [`Job`]: what will be written, as decided from the headers alone.

use std::path::{Path, PathBuf};

use kinglet_models::{Config, Layout, ModelSpec, Tie, mlx_fields, spec_in};
use kinglet_quant::Format;
use serde_json::{Map, Value, json};

use super::config_json::ConfigText;
use super::error::QuantizeError;
use super::files::Companions;
use super::mix::{Candidate, mix, prior};
use super::pair::pair;
use super::recipe::{Recipe, Rule};
use super::roles;
use super::target::{Kept, TargetTensor};
use crate::Error;
use crate::weights::checkpoint::{Checkpoint, read_config_text};
use crate::weights::folder::resolve_folder;
use crate::weights::{CheckOptions, Encoding, Weights, WeightsError};

/// Default size limit of one file, the same as mlx-lm's: 5 GiB.
pub const DEFAULT_SHARD_BYTES: u64 = 5 << 30;
/// Bits per weight that a mixed recipe adds by default.
const MIXED_EXTRA: f64 = 0.3;

/// Options for quantizing a checkpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobOptions {
    /// The format of matrices for which the recipe has no other.
    pub format: Format,
    /// The format of each matrix.
    pub recipe: Recipe,
    /// Most bytes of data per file, unless a single tensor is larger.
    pub max_shard_bytes: u64,
    /// Whether tensors that the model doesn't use are an error. They are dropped in any case.
    pub strict: bool,
}

impl JobOptions {
    /// All matrices in `format`, and files of at most [`DEFAULT_SHARD_BYTES`].
    pub fn new(format: Format) -> Self {
        let max_shard_bytes = DEFAULT_SHARD_BYTES;
        Self { format, recipe: Recipe::Uniform, max_shard_bytes, strict: false }
    }

    /// Sets [`Self::recipe`].
    pub fn recipe(mut self, recipe: Recipe) -> Self {
        self.recipe = recipe;
        self
    }

    /// Sets [`Self::max_shard_bytes`].
    pub fn max_shard_bytes(mut self, bytes: u64) -> Self {
        self.max_shard_bytes = bytes;
        self
    }

    /// Sets [`Self::strict`].
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }
}

/// A checkpoint to be quantized, with the format of every tensor.
#[derive(Debug)]
pub struct Job {
    folder: PathBuf,
    pub(super) weights: Weights,
    config: ConfigText,
    options: JobOptions,
    source: ModelSpec,
    /// Whether config.json must declare that head and embedding are not tied.
    untie: bool,
    /// Further fields that mlx-lm needs in config.json.
    mlx_fields: Vec<(&'static str, Value)>,
    pub(super) tensors: Vec<TargetTensor>,
    unused_rules: Vec<String>,
    companions: Companions,
}

impl Job {
    /// Reads config.json and the headers of the weights in `folder`, and decides the format of each
    /// tensor.
    ///
    /// # Errors
    /// If the folder is not a model that Kinglet can run, is quantized already, or the recipe can't
    /// be applied.
    pub fn open(folder: &Path, options: &JobOptions) -> Result<Self, Error> {
        let folder = &*resolve_folder(folder)?;
        let path = folder.join("config.json");
        let text = read_config_text(folder)?;
        let refused = |source| Error::Config { path: path.clone(), source };
        let whole = Config::parse(&text).map_err(refused)?;
        // For a larger model, the text part is quantized and the new config is that part's.
        let config = whole.language().into_owned();
        let text = if config.place().is_some() { config.to_json() } else { text };
        let config_text = ConfigText::new(&text).ok_or_else(|| QuantizeError::Layout {
            tensor: "config.json".into(),
            problem: "it is not an object".into(),
        })?;
        let checkpoint = Checkpoint::open(folder, CheckOptions { strict: options.strict })?;
        refuse_quantized(&checkpoint)?;
        let Checkpoint { spec: source, weights, .. } = checkpoint;
        let mut target = spec_in(&config, Layout::Mlx).map_err(refused)?;
        // The config ties head and embedding, but the checkpoint has both with different weights.
        let untie =
            target.head.untied.is_some() && source.head.linear.weight != source.embedding.table;
        // If they are the same, store one table under the embedding's name, which every program
        // reads.
        target.settle_tie(if untie { Tie::Different } else { Tie::Same });
        if source.is_folded() {
            // The convolutions' shape must tell the same of the new checkpoint.
            target.fold().map_err(WeightsError::Folded)?;
        }
        let tensors = pair(&source, &target, &weights)?;
        let mut job = Self {
            folder: folder.into(),
            weights,
            config: config_text,
            options: options.clone(),
            source,
            untie,
            mlx_fields: mlx_fields(&config),
            tensors,
            unused_rules: Vec::new(),
            companions: Companions::of(folder)?,
        };
        match &options.recipe {
            Recipe::Uniform => job.apply(&[])?,
            Recipe::Rules(rules) => job.apply(rules)?,
            Recipe::Mixed { bits_per_weight } => {
                job.apply(&[])?;
                let target = bits_per_weight.unwrap_or(job.bits_per_weight() + MIXED_EXTRA);
                let last = job.source.blocks.iter().map(|block| block.layer).max();
                let tied = job.source.head.linear.weight == job.source.embedding.table;
                let seen = roles::share_of_tokens(&job.source);
                job.mix(target, &|tensor| {
                    let in_last = tensor.layer.is_some() && tensor.layer == last;
                    let first = tensor.pieces.first().map(|piece| &piece.source);
                    let seen = first.and_then(|matrix| seen.get(matrix)).copied().unwrap_or(1.0);
                    tensor.role.map_or(0.0, |role| prior(role, tied, in_last, seen))
                });
            }
        }
        Ok(job)
    }

    /// Gives every matrix the format of the first rule that matches it, or else the default.
    fn apply(&mut self, rules: &[Rule]) -> Result<(), QuantizeError> {
        let mut used = vec![false; rules.len()];
        for tensor in &mut self.tensors {
            let Some(role) = tensor.role else { continue };
            let mut found = rules.iter().enumerate().filter_map(|(index, rule)| {
                rule.matches(tensor.path()).map(|named| (index, rule, named))
            });
            let found = found.next();
            if let Some((index, ..)) = found
                && let Some(used) = used.get_mut(index)
            {
                *used = true;
            }
            let named = found.is_some_and(|(_, _, named)| named);
            let format = match found {
                Some((_, rule, _)) => rule.format,
                None => Some(self.options.format),
            };
            let ragged = format.and_then(|format| format.check_cols(tensor.cols()).err());
            tensor.kept = match (format, ragged, found) {
                (None, ..) => Some(Kept::Recipe),
                (Some(_), ..) if !tensor.name.ends_with(".weight") => Some(Kept::Parameter),
                (Some(_), ..) if role.is_gate() && !named => Some(Kept::Gate),
                (Some(_), Some(source), Some((index, ..))) if named => {
                    let path = tensor.path().to_string();
                    return Err(QuantizeError::Ragged { path, rule: index + 1, source });
                }
                (Some(format), Some(_), _) => Some(Kept::Ragged { cols: tensor.cols(), format }),
                (Some(_), None, _) => None,
            };
            tensor.encoding = match (format, tensor.kept) {
                (Some(format), None) => Encoding::Quantized(format),
                _ => Encoding::Dense(tensor.dtype),
            };
        }
        let unused = rules.iter().zip(&used).filter(|(_, used)| !**used);
        self.unused_rules = unused.map(|(rule, _)| rule.patterns.join(", ")).collect();
        Ok(())
    }

    /// Chooses among the default format, one with a bit less, and wider ones for each quantized
    /// matrix, so that the checkpoint averages at most `bits_per_weight` (unless the narrowest
    /// formats exceed that). `sensitivity` is the relative weight of an error in one weight of a
    /// tensor.
    pub fn mix(&mut self, bits_per_weight: f64, sensitivity: &dyn Fn(&TargetTensor) -> f64) {
        let mut candidates = Vec::new();
        let (mut weights, mut fixed) = (0u64, 0u64);
        for tensor in &self.tensors {
            weights = weights.saturating_add(tensor.weights());
            match tensor.encoding {
                Encoding::Dense(_) => fixed = fixed.saturating_add(tensor.bytes()),
                Encoding::Quantized(_) => candidates.push(Candidate {
                    weights: tensor.weights(),
                    dtype: tensor.dtype,
                    cols: tensor.cols(),
                    sensitivity: sensitivity(tensor),
                }),
            }
        }
        let budget = bits_per_weight * weights as f64 - 8.0 * fixed as f64;
        let formats = mix(&candidates, self.options.format, budget);
        let quantized = self.tensors.iter_mut().filter(|tensor| tensor.format().is_some());
        for (tensor, format) in quantized.zip(formats) {
            tensor.encoding = Encoding::Quantized(format);
        }
    }

    /// The source's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The spec, with the source's tensor names.
    pub fn spec(&self) -> &ModelSpec {
        &self.source
    }

    /// The options of [`Job::open`].
    pub fn options(&self) -> &JobOptions {
        &self.options
    }

    /// The tensors of the new checkpoint, in order of use.
    pub fn tensors(&self) -> &[TargetTensor] {
        &self.tensors
    }

    /// Patterns of rules that applied to no matrix.
    pub fn unused_rules(&self) -> &[String] {
        &self.unused_rules
    }

    /// The files to copy, and those that can't be.
    pub fn companions(&self) -> &Companions {
        &self.companions
    }

    /// Size of the source's tensors that are used, in bytes.
    pub fn source_bytes(&self) -> u64 {
        let size =
            |tensor: &TargetTensor| tensor.weights().saturating_mul(tensor.dtype.size() as u64);
        self.tensors.iter().map(size).fold(0, u64::saturating_add)
    }

    /// Size of the new checkpoint's tensors, in bytes.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(TargetTensor::bytes).fold(0, u64::saturating_add)
    }

    /// Number of weights in all tensors.
    pub fn weight_count(&self) -> u64 {
        self.tensors.iter().map(TargetTensor::weights).fold(0, u64::saturating_add)
    }

    /// Bits per weight of the whole new checkpoint, including scales, biases and tensors kept as
    /// they are.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.weight_count().max(1) as f64
    }

    /// The text of the new config.json.
    pub(super) fn config(&self) -> String {
        let mut config = self.config.clone();
        if self.untie {
            config.set("tie_word_embeddings", &Value::Bool(false));
        }
        for (key, value) in &self.mlx_fields {
            config.set(key, value);
        }
        let default = self.options.format;
        let mut quantization = entry(default);
        for tensor in &self.tensors {
            if let Some(format) = tensor.format().filter(|format| *format != default) {
                quantization.insert(tensor.path().into(), Value::Object(entry(format)));
            }
        }
        let quantization = Value::Object(quantization);
        config.remove("compression_config");
        for key in ["quantization", "quantization_config"] {
            config.set(key, &quantization);
        }
        config.into_text()
    }
}

/// A format as mlx-lm writes it in config.json.
fn entry(format: Format) -> Map<String, Value> {
    let fields = [
        ("group_size", json!(format.group())),
        ("bits", json!(format.bits())),
        ("mode", json!(format.mode().name())),
    ];
    fields.into_iter().map(|(key, value)| (key.into(), value)).collect()
}

/// Fails if the checkpoint is quantized already.
fn refuse_quantized(checkpoint: &Checkpoint) -> Result<(), Error> {
    let Checkpoint { folder, spec, weights, quantization, .. } = checkpoint;
    let stated = quantization.is_some().then(|| "config.json says so".to_string());
    let found = stated.or_else(|| {
        let codes = spec.tensors().into_iter().find_map(|tensor| {
            match weights.stored(tensor).map(|stored| stored.encoding) {
                Ok(Encoding::Quantized(format)) => Some((tensor, format)),
                _ => None,
            }
        });
        codes.map(|(tensor, format)| format!("{} is {format}", tensor.name))
    });
    match found {
        Some(found) => {
            Err(QuantizeError::AlreadyQuantized { folder: folder.clone(), found }.into())
        }
        None => Ok(()),
    }
}
