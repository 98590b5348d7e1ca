//! [`Job`]: what will be written, decided from the headers alone.

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
use crate::weights::{CheckOptions, Encoding, Weights};

/// Largest file that is written unless told otherwise, as by mlx-lm: 5 GiB.
pub const DEFAULT_SHARD_BYTES: u64 = 5 << 30;
/// Bits per weight that a mixed recipe adds unless told otherwise.
const MIXED_EXTRA: f64 = 0.3;

/// What a checkpoint shall become.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobOptions {
    /// The format of matrices that the recipe says nothing else of.
    pub format: Format,
    /// Which format each matrix gets.
    pub recipe: Recipe,
    /// No file is larger, unless a single tensor is.
    pub max_shard_bytes: u64,
    /// Whether tensors that the model has no use for are an error; they are left out in any case.
    pub strict: bool,
}

impl JobOptions {
    /// All matrices in `format`, files of at most [`DEFAULT_SHARD_BYTES`].
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

/// A checkpoint that is to be quantized, and how.
#[derive(Debug)]
pub struct Job {
    folder: PathBuf,
    pub(super) weights: Weights,
    config: ConfigText,
    options: JobOptions,
    source: ModelSpec,
    /// Whether config.json must say that head and embedding are not tied.
    untie: bool,
    /// What mlx-lm needs of config.json besides.
    mlx_fields: Vec<(&'static str, Value)>,
    pub(super) tensors: Vec<TargetTensor>,
    unused_rules: Vec<String>,
    companions: Companions,
}

impl Job {
    /// Reads config.json and the headers of the weights in `folder`, and decides what each tensor becomes.
    ///
    /// # Errors
    /// When the folder is no model that Kinglet can run, is quantized already, or the recipe asks for what cannot be.
    pub fn open(folder: &Path, options: &JobOptions) -> Result<Self, Error> {
        let folder = &*resolve_folder(folder)?;
        let path = folder.join("config.json");
        let text = read_config_text(folder)?;
        let refused = |source| Error::Config { path: path.clone(), source };
        let whole = Config::parse(&text).map_err(refused)?;
        // Of a larger model the text part is quantized, and the new config is that of the part.
        let config = whole.language().into_owned();
        let text = if config.place().is_some() { config.to_json() } else { text };
        let config_text = ConfigText::new(&text).ok_or_else(|| QuantizeError::Layout {
            tensor: "config.json".into(),
            problem: "it is no object".into(),
        })?;
        let checkpoint = Checkpoint::open(folder, CheckOptions { strict: options.strict })?;
        refuse_quantized(&checkpoint)?;
        let Checkpoint { spec: source, weights, .. } = checkpoint;
        let mut target = spec_in(&config, Layout::Mlx).map_err(refused)?;
        // The config ties head and embedding, and the checkpoint has both, with different weights.
        let untie =
            target.head.untied.is_some() && source.head.linear.weight != source.embedding.table;
        // Where they are one, one table under the name of the embedding is what everybody reads.
        target.settle_tie(if untie { Tie::Different } else { Tie::Same });
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

    /// Gives the matrices that are quantized the default format, one with a bit less, or wider ones, so that the checkpoint has on average at
    /// most `bits_per_weight` (unless the narrowest have more). `sensitivity` says how much an error in one weight of a
    /// tensor matters, beside others.
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

    /// The model folder that is read.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the model computes, in the names of the source.
    pub fn spec(&self) -> &ModelSpec {
        &self.source
    }

    /// The options that it was opened with.
    pub fn options(&self) -> &JobOptions {
        &self.options
    }

    /// The tensors of the new checkpoint, in order of use.
    pub fn tensors(&self) -> &[TargetTensor] {
        &self.tensors
    }

    /// Patterns of rules that no matrix was left for.
    pub fn unused_rules(&self) -> &[String] {
        &self.unused_rules
    }

    /// The files that are taken along, and those that can't be.
    pub fn companions(&self) -> &Companions {
        &self.companions
    }

    /// Bytes of the source's tensors, as far as they are used.
    pub fn source_bytes(&self) -> u64 {
        let size =
            |tensor: &TargetTensor| tensor.weights().saturating_mul(tensor.dtype.size() as u64);
        self.tensors.iter().map(size).fold(0, u64::saturating_add)
    }

    /// Bytes of the new checkpoint's tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(TargetTensor::bytes).fold(0, u64::saturating_add)
    }

    /// Weights of all tensors.
    pub fn weight_count(&self) -> u64 {
        self.tensors.iter().map(TargetTensor::weights).fold(0, u64::saturating_add)
    }

    /// Bits per weight of the whole new checkpoint: scales, biases and what is kept included.
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

/// A format as mlx-lm writes it.
fn entry(format: Format) -> Map<String, Value> {
    let fields = [
        ("group_size", json!(format.group())),
        ("bits", json!(format.bits())),
        ("mode", json!(format.mode().name())),
    ];
    fields.into_iter().map(|(key, value)| (key.into(), value)).collect()
}

/// An error if the checkpoint holds codes instead of weights.
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
