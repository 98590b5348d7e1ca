//! [`init`]: a checkpoint with random weights for a configuration.
//!
//! The initial values follow from the role of each tensor in its layer: projections are normal with a standard deviation of 0.02, those
//! that write to the residual stream smaller by the square root of the number of branches (Radford et al., "Language Models are
//! Unsupervised Multitask Learners", 2019, section 2.3); norms are the identity; decays and steps are those of Mamba (Gu and Dao, 2023,
//! section 3.6 and appendix; Dao and Gu, 2024), gates of cells those of xLSTM (Beck et al., "xLSTM 7B", arXiv:2503.13427, 2025).
//!
//! Every number is a function of the seed, the tensor's name and its place, so that the same seed gives the same bytes whatever the
//! number of threads. Weights are streamed: memory holds a block for each thread.

use std::collections::HashMap;
use std::path::Path;

use half::bf16;
use kinglet_models::{Config, ModelSpec, Norm, Role};
use kinglet_quant::DType;
use serde_json::Value;

use super::folder::{self, StagedFolder};
use super::quantize::{
    DEFAULT_SHARD_BYTES, Files, QuantizeError, TargetTensor, lay_out, weights_index,
};
use crate::Error;
use crate::files::fnv1a::Fnv1a;
use crate::weights::{Encoding, Progress};

/// Standard deviation of projections.
const DEVIATION: f64 = 0.02;
/// Range of Mamba's initial steps.
const STEPS: (f64, f64) = (1e-3, 1e-1);
/// Least initial step of Mamba.
const LEAST_STEP: f64 = 1e-4;
/// Range of the decay rates of Mamba-2's heads.
const RATES: (f64, f64) = (1.0, 16.0);
/// Biases of the forget gates of a cell's heads, from the first to the last.
const FORGET: (f64, f64) = (3.0, 6.0);
/// Bias of the input gates of a cell.
const INPUT: f64 = -10.0;
/// Elements of a block.
const BLOCK: usize = 1 << 20;

/// Options of [`init`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InitOptions {
    /// Type of all tensors.
    pub dtype: DType,
    /// The same seed gives the same bytes.
    pub seed: u64,
    /// Most bytes of data per file, unless a single tensor is larger.
    pub max_shard_bytes: u64,
    /// Whether to replace an existing checkpoint.
    pub replace: bool,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { dtype: DType::BF16, seed: 0, max_shard_bytes: DEFAULT_SHARD_BYTES, replace: false }
    }
}

impl InitOptions {
    /// The defaults: bf16, seed 0, no replacing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Self::dtype`].
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Sets [`Self::seed`].
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets [`Self::max_shard_bytes`].
    pub fn max_shard_bytes(mut self, bytes: u64) -> Self {
        self.max_shard_bytes = bytes;
        self
    }

    /// Sets [`Self::replace`].
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }
}

/// What [`init`] wrote.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of parameters.
    pub parameters: u64,
    /// Names and sizes of the files with weights.
    pub files: Vec<(String, u64)>,
}

/// Writes a checkpoint of the model that `config` (the text of a config.json) describes to the folder `out`, which appears when it is
/// complete and on the disk. `progress` gets the bytes written and their total; `false` stops.
///
/// # Errors
/// If the config is not supported, `out` is refused or a file can't be written. No folder remains then.
pub fn init(
    config: &str,
    out: &Path,
    options: &InitOptions,
    progress: Progress<'_>,
) -> Result<InitReport, Error> {
    let refused = |source| Error::Config { path: "config.json".into(), source };
    let parsed = Config::parse(config).map_err(refused)?;
    let spec = kinglet_models::spec(&parsed).map_err(refused)?;
    let place = folder::check(out, None, options.replace)?;
    let fills = fills(&spec);
    let tensors: Vec<TargetTensor> = spec
        .tensors()
        .into_iter()
        .map(|tensor| TargetTensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: options.dtype,
            role: None,
            layer: None,
            encoding: Encoding::Dense(options.dtype),
            kept: None,
            pieces: Vec::new(),
            copy_of: None,
        })
        .collect();
    let (shards, places) = lay_out(&tensors, options.max_shard_bytes, "pt");
    let staged = StagedFolder::create(&place)?;
    let needed = shards.iter().map(|shard| shard.len).fold(0, u64::saturating_add);
    let files = Files::create(staged.path(), &shards, needed)?;
    let total = tensors.iter().map(TargetTensor::bytes).fold(0, u64::saturating_add);
    let mut done = 0;
    for (tensor, place) in tensors.iter().zip(&places) {
        let fill = fills.get(tensor.name.as_str()).copied().unwrap_or(Fill::Normal(DEVIATION));
        let stream =
            Stream { seed: seed_of(options.seed, &tensor.name), fill, cols: tensor.cols() };
        let offset = place.offsets.first().copied().unwrap_or(0);
        let elements = usize::try_from(tensor.weights()).unwrap_or(usize::MAX);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut first = 0;
        while first < elements {
            let blocks: Vec<(usize, usize)> = (0..threads)
                .map(|index| first.saturating_add(index * BLOCK))
                .take_while(|start| *start < elements)
                .map(|start| (start, start.saturating_add(BLOCK).min(elements)))
                .collect();
            for (bytes, (start, _)) in stream.blocks(&blocks, options.dtype).iter().zip(&blocks) {
                let at = offset.saturating_add((start * options.dtype.size()) as u64);
                files.write(place.shard, at, bytes)?;
                done += bytes.len() as u64;
            }
            first = blocks.last().map_or(elements, |(_, end)| *end);
            if !progress(done, total) {
                return Err(QuantizeError::Cancelled.into());
            }
        }
    }
    files.finish()?;
    let index = weights_index(&tensors, &shards, &places);
    for (name, text) in [
        ("model.safetensors.index.json", index),
        ("config.json", with_dtype(config, options.dtype)),
    ] {
        files.write_text(&staged.path().join(name), &(text.trim_end().to_string() + "\n"))?;
    }
    staged.commit()?;
    Ok(InitReport {
        tensors: tensors.len(),
        parameters: tensors.iter().map(TargetTensor::weights).fold(0, u64::saturating_add),
        files: shards.into_iter().map(|shard| (shard.name, shard.len)).collect(),
    })
}

/// The config with the type of the new tensors.
fn with_dtype(config: &str, dtype: DType) -> String {
    let name = match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
    };
    match serde_json::from_str::<Value>(config) {
        Ok(Value::Object(mut fields)) => {
            // The older name of the same field.
            fields.remove("torch_dtype");
            fields.insert("dtype".into(), name.into());
            format!("{:#}", Value::Object(fields))
        }
        // The config was parsed with bare `Infinity` and the like, which this parser refuses.
        _ => config.to_string(),
    }
}

/// How a tensor begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fill {
    /// The same number everywhere.
    Constant(f64),
    /// Mean 0 and this standard deviation.
    Normal(f64),
    /// Between both.
    Uniform(f64, f64),
    /// `ln(1 + column)`: the decay rates of Mamba's states.
    LogColumn,
    /// The logarithm of a number between both.
    LogOfUniform(f64, f64),
    /// What softplus makes a step in the range of [`STEPS`], its logarithm uniform.
    Step,
    /// Evenly spaced values: the first, the last, and how many.
    Line(f64, f64, usize),
}

/// How each tensor of `spec` begins; those that are missing are like projections.
fn fills(spec: &ModelSpec) -> HashMap<&str, Fill> {
    let mut fills = HashMap::new();
    let branches: usize = spec.blocks.iter().map(|block| block.branches.len()).sum();
    let into_stream = DEVIATION / (branches.max(1) as f64).sqrt();
    let norms = spec.blocks.iter().flat_map(|block| block.norms()).chain([&spec.head.norm]);
    for Norm { weight, bias, offset, .. } in norms {
        fills.insert(weight.name.as_str(), Fill::Constant(1.0 - f64::from(*offset)));
        fills.extend(bias.iter().map(|bias| (bias.name.as_str(), Fill::Constant(0.0))));
    }
    for mixer in spec.blocks.iter().flat_map(|block| &block.branches).map(|branch| &branch.mixer) {
        // A bias follows its projection or convolution.
        let (mut owner, mut rows, mut gates) = (None, 0, 0);
        for part in mixer.parts() {
            let (tensor, _) = part.held.tensor();
            let cols = tensor.shape.last().copied().unwrap_or(1).max(1);
            if part.role == Role::CellGate {
                gates += 1;
            }
            let fill = match part.role {
                Role::Embedding
                | Role::Head
                | Role::Query
                | Role::Key
                | Role::Value
                | Role::Latent
                | Role::In
                | Role::StateIn
                | Role::OutputGate
                | Role::CellGate
                | Role::Router
                | Role::SharedGate
                | Role::Gate
                | Role::Up
                | Role::Adapter
                | Role::Recurrent => Fill::Normal(DEVIATION),
                Role::Out | Role::Down => Fill::Normal(into_stream),
                Role::TimeStep => {
                    let bound = (cols as f64).sqrt().recip();
                    Fill::Uniform(-bound, bound)
                }
                Role::Norm | Role::Skip => Fill::Constant(1.0),
                Role::Mix => Fill::Constant(0.0),
                Role::Bias => match owner {
                    Some(Role::TimeStep) => Fill::Step,
                    // Fused gates have one bias.
                    Some(Role::CellGate)
                        if mixer.layer().kind() == "mlstm" && tensor.elements() == rows =>
                    {
                        match gates {
                            1 => Fill::Constant(INPUT),
                            _ => Fill::Line(FORGET.0, FORGET.1, rows),
                        }
                    }
                    _ => Fill::Constant(0.0),
                },
                Role::Conv => {
                    let taps: usize = tensor.shape.iter().skip(1).product();
                    let bound = (taps.max(1) as f64).sqrt().recip();
                    Fill::Uniform(-bound, bound)
                }
                // Mamba's rates differ by the element of a channel's state, those of others by head.
                Role::Decay if tensor.shape.len() == 2 => Fill::LogColumn,
                Role::Decay => Fill::LogOfUniform(RATES.0, RATES.1),
                Role::TimeBias => Fill::Step,
            };
            if part.role != Role::Bias {
                owner = Some(part.role);
                rows = part.held.matrix().map_or(0, |matrix| matrix.rows);
            }
            fills.entry(tensor.name.as_str()).or_insert(fill);
        }
    }
    fills
}

/// The seed of a tensor.
fn seed_of(seed: u64, name: &str) -> u64 {
    let mut hash = Fnv1a::new();
    hash.write_u64(seed);
    hash.write(name.as_bytes());
    hash.finish()
}

/// The numbers of a tensor.
#[derive(Clone, Copy, Debug)]
struct Stream {
    seed: u64,
    fill: Fill,
    cols: usize,
}

impl Stream {
    /// The `counter`th 64 bits of the tensor: SplitMix64 (Steele, Lea and Flood, 2014) at this place.
    fn bits(&self, counter: u64) -> u64 {
        let state =
            self.seed.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform between 0 and 1.
    fn uniform(&self, index: usize) -> f64 {
        (self.bits(index as u64) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0 and variance 1: the sum of twelve uniform numbers of 16 bits. Unlike other methods it needs no function whose last digit
    /// depends on the machine.
    fn normal(&self, index: usize) -> f64 {
        let mut sum = 0u64;
        for draw in 0..3 {
            let bits = self.bits((index as u64).wrapping_mul(3).wrapping_add(draw));
            sum += (0..4).map(|part| (bits >> (16 * part)) & 0xffff).sum::<u64>();
        }
        (sum as f64 + 6.0) / 65536.0 - 6.0
    }

    fn value(&self, index: usize) -> f64 {
        let between = |low: f64, high: f64| low + (high - low) * self.uniform(index);
        match self.fill {
            Fill::Constant(value) => value,
            Fill::Normal(deviation) => deviation * self.normal(index),
            Fill::Uniform(low, high) => between(low, high),
            Fill::LogColumn => (1.0 + (index % self.cols.max(1)) as f64).ln(),
            Fill::LogOfUniform(low, high) => between(low, high).ln(),
            Fill::Step => {
                let step = between(STEPS.0.ln(), STEPS.1.ln()).exp().max(LEAST_STEP);
                // The inverse of softplus.
                step + (-(-step).exp_m1()).ln()
            }
            Fill::Line(first, last, count) => {
                first + (last - first) * index as f64 / count.saturating_sub(1).max(1) as f64
            }
        }
    }

    /// The bytes of elements `start..end` of each block, computed by a thread each.
    fn blocks(&self, blocks: &[(usize, usize)], dtype: DType) -> Vec<Vec<u8>> {
        let bytes = |&(start, end): &(usize, usize)| self.bytes(start, end, dtype);
        if let [block] = blocks {
            return vec![bytes(block)];
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                blocks.iter().map(|block| scope.spawn(move || bytes(block))).collect();
            let joined = threads.into_iter().zip(blocks);
            // A thread only computes; if it ended early, this one does its work.
            joined.map(|(thread, block)| thread.join().unwrap_or_else(|_| bytes(block))).collect()
        })
    }

    fn bytes(&self, start: usize, end: usize, dtype: DType) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((end - start) * dtype.size());
        for index in start..end {
            let value = self.value(index) as f32;
            match dtype {
                DType::F32 => bytes.extend(value.to_le_bytes()),
                DType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                DType::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
        bytes
    }
}
