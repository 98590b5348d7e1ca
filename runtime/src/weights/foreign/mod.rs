//! Converts checkpoints in other projects' quantized layouts while they are loaded.
//!
//! | layout | tensors | become |
//! | --- | --- | --- |
//! | GPTQ | `X.qweight`, `X.qzeros`, `X.scales`, `X.g_idx` | `X.weight`, `X.scales`, `X.biases` |
//! | AWQ | `X.qweight`, `X.qzeros`, `X.scales` | the same |
//! | FP8 | `X.weight` in F8_E4M3, `X.weight_scale` or `X.weight_scale_inv` | `X.weight`, `X.scales` (and `X.biases`) |
//! | FP8 stacks | `P.X` or `P.X.weight`, `[experts, rows, cols]`, with scales of a dimension more | the experts one by one, `P.experts.E.X.weight` |
//!
//! The results are held in memory, so loading such a checkpoint takes its own size in memory, and a
//! multiple of that if it must be encoded anew. A layout is converted exactly if a format holds the
//! same weights. Otherwise (act-order GPTQ, FP8 with scales that are not powers of two) it is encoded
//! in 8 bits, with a warning. FP8 matrices whose rows are not whole groups of 32 become f32. Scales of activations and caches (`X.input_scale`, `X.k_scale`, ...) are ignored:
//! neither is quantized here.

mod error;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kinglet_models::Quantization;
use kinglet_quant::foreign::{Awq, Converted, Fp8, Gptq, awq, fp8, fp8_weights, gptq};
use kinglet_quant::{DType, Format, Mode, e8m0};
use safetensors::Dtype;

pub use self::error::ConversionError;
use super::error::{Name, WeightsError};
use super::header::Entry;
use super::map::{Part, Source};
use super::{Weights, dense_dtype};

/// Scales that matter only if activations or caches are quantized.
const UNUSED: [&str; 11] = [
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".activation_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".prob_output_scale",
    "_proj_input_scale",
    "_proj_activation_scale",
];

/// The outcome of a conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversion {
    /// Matrices that were converted.
    pub matrices: usize,
    /// The matrices among them that no format holds exactly, so that they were encoded anew in 8
    /// bits.
    pub inexact: Vec<String>,
}

/// A layer to convert: the common prefix of its tensors' names, and these tensors.
struct Layer {
    prefix: String,
    /// The tensors to replace.
    entries: Vec<Entry>,
    /// Index in a stack of matrices.
    expert: Option<usize>,
}

impl Layer {
    /// The prefix of the results' names.
    fn target(&self) -> String {
        let Some(expert) = self.expert else { return self.prefix.clone() };
        let (path, leaf) = match self.prefix.rsplit_once('.') {
            Some((path, leaf)) => {
                (format!("{}.", path.strip_suffix(".experts").unwrap_or(path)), leaf)
            }
            None => (String::new(), &*self.prefix),
        };
        format!("{path}experts.{expert}.{leaf}")
    }
}

/// What takes the place of a layer's tensors.
enum Replacement {
    /// A matrix in one of our formats.
    Packed(Converted),
    /// A dense matrix.
    Dense {
        /// Rows and columns.
        shape: [usize; 2],
        /// Its elements.
        weights: Vec<f32>,
    },
}

/// Most matrices in a stack; no model has more experts.
const MOST_EXPERTS: usize = 1 << 12;

impl Weights {
    /// Converts the tensors that `stated` declares to be in a foreign layout; does nothing for
    /// MLX's. Finds layers by the names of their tensors, and sizes by the shapes.
    ///
    /// # Errors
    /// [`WeightsError::Foreign`] for the first layer, in order of names, whose tensors don't match
    /// each other.
    pub fn convert(&mut self, stated: &Quantization) -> Result<Conversion, WeightsError> {
        let layers = match stated {
            Quantization::Mlx(_) => return Ok(Conversion::default()),
            Quantization::Gptq(_) | Quantization::Awq { .. } => self.packed_layers(),
            Quantization::Fp8 { .. } => self.fp8_layers(),
        };
        self.make_resident()?;
        let converted = in_parallel(&layers, |layer| {
            let matrix = match stated {
                Quantization::Mlx(_) => Err(ConversionError::Missing { name: String::new() }),
                Quantization::Gptq(_) | Quantization::Awq { .. } => {
                    self.integer(layer, stated).map(Replacement::Packed)
                }
                Quantization::Fp8 { block } => self.fp8(layer, *block),
            };
            matrix.map_err(|error| WeightsError::Foreign { layer: layer.prefix.clone(), error })
        });

        let mut done = Conversion::default();
        let removed: HashSet<Arc<str>> =
            layers.iter().flat_map(|l| l.entries.iter().map(|e| e.name.clone())).collect();
        self.entries.retain(|entry| {
            let unused = UNUSED.iter().any(|part| entry.name.ends_with(part));
            !unused && !removed.contains(&entry.name)
        });
        for (layer, converted) in layers.iter().zip(converted) {
            done.matrices += 1;
            match converted? {
                Replacement::Packed(Converted { matrix, exact }) => {
                    if !exact {
                        done.inexact.push(format!("{}.weight", layer.target()));
                    }
                    self.add(&layer.target(), matrix)?;
                }
                Replacement::Dense { shape, weights } => {
                    let bytes = bytemuck::cast_slice(&weights).to_vec();
                    self.add_part(format!("{}.weight", layer.target()), Dtype::F32, shape, bytes)?;
                }
            }
        }
        if !matches!(stated, Quantization::Fp8 { .. }) {
            self.packed_layers = layers.into_iter().map(|layer| layer.prefix).collect();
        }
        self.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for pair in self.entries.windows(2) {
            if let [a, b] = pair
                && a.name == b.name
            {
                let error = ConversionError::Occupied { name: a.name.to_string() };
                let layer = a.name.rsplit_once('.').map_or("", |(prefix, _)| prefix).into();
                return Err(WeightsError::Foreign { layer, error });
            }
        }
        if let Some(first) = done.inexact.first() {
            log::warn!(
                "{} of {} matrices have a layout that no supported format holds exactly, such as {}: \
                 encoding them in 8 bits",
                done.inexact.len(),
                done.matrices,
                Name(first)
            );
        }
        Ok(done)
    }

    /// Adds a matrix as `PREFIX.weight` and its companions.
    fn add(&mut self, prefix: &str, matrix: kinglet_quant::Quantized) -> Result<(), WeightsError> {
        let (format, float) = (matrix.format(), matrix.float());
        let (rows, groups) = (matrix.rows(), format.groups(matrix.cols()));
        let words = format.row_bytes(matrix.cols()) / 4;
        if matrix.factor() != 1.0 {
            self.factors.insert(format!("{prefix}.weight"), matrix.factor());
        }
        let scale_type = match (format.mode(), float) {
            (Mode::MxFp4 | Mode::MxFp8 | Mode::NvFp4, _) => Dtype::U8,
            (Mode::Affine, DType::F32) => Dtype::F32,
            (Mode::Affine, DType::F16) => Dtype::F16,
            (Mode::Affine, DType::BF16) => Dtype::BF16,
        };
        let (codes, scales, biases) = matrix.into_parts();
        for (name, dtype, cols, bytes) in [
            ("weight", Dtype::U32, words, codes),
            ("scales", scale_type, groups, scales),
            ("biases", scale_type, groups, biases),
        ] {
            if name == "biases" && format.mode() != Mode::Affine {
                continue;
            }
            self.add_part(format!("{prefix}.{name}"), dtype, [rows, cols], bytes)?;
        }
        Ok(())
    }

    /// Adds a tensor.
    fn add_part(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: [usize; 2],
        bytes: Vec<u8>,
    ) -> Result<(), WeightsError> {
        let range = 0..bytes.len();
        let part = Part::new(Source::bytes(format!("the converted {name}"), bytes))?;
        // There are fewer parts than tensors, and a header can't hold 2^32 of those.
        let id = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        self.parts.push(Arc::new(part));
        let (name, shape) = (name.into(), shape.into());
        self.entries.push(Entry { name, shape, range, part: id, dtype });
        Ok(())
    }

    /// Finds layers with a `qweight`.
    fn packed_layers(&self) -> Vec<Layer> {
        let prefixes = self.names().filter_map(|name| name.strip_suffix(".qweight"));
        let layer = |prefix: &str| {
            let parts = ["qweight", "qzeros", "scales", "g_idx"];
            let entries = parts.iter().filter_map(|part| self.entry(&format!("{prefix}.{part}")));
            let entries = entries.cloned().collect();
            Layer { prefix: prefix.into(), entries, expert: None }
        };
        prefixes.map(layer).collect()
    }

    /// Finds layers with a weight in E4M3 and a scale.
    fn fp8_layers(&self) -> Vec<Layer> {
        let weights = self.entries.iter().filter(|entry| entry.dtype == Dtype::F8_E4M3);
        let layers = weights.flat_map(|weight| {
            // A stack can be a parameter without `.weight`.
            let prefix = weight.name.strip_suffix(".weight").unwrap_or(&weight.name);
            let scale = [".weight_scale", ".weight_scale_inv", "_scale_inv", "_scale"]
                .iter()
                .find_map(|part| self.entry(&format!("{prefix}{part}")));
            let experts = match *weight.shape {
                [experts, _, _] if experts <= MOST_EXPERTS => (0..experts).map(Some).collect(),
                _ => vec![None],
            };
            let layer = |(scale, expert): (&Entry, _)| Layer {
                prefix: prefix.into(),
                entries: vec![weight.clone(), scale.clone()],
                expert,
            };
            let all = experts.into_iter().filter_map(move |expert| Some((scale?, expert)));
            all.map(layer).collect::<Vec<_>>()
        });
        layers.collect()
    }

    fn integer(&self, layer: &Layer, stated: &Quantization) -> Result<Converted, ConversionError> {
        let part = |part: &str| {
            let name = format!("{}.{part}", layer.prefix);
            self.entry(&name).ok_or(ConversionError::Missing { name })
        };
        let (qweight, qzeros, scales) = (part("qweight")?, part("qzeros")?, part("scales")?);
        let g_idx = part("g_idx").ok();
        for entry in [qweight, qzeros].into_iter().chain(g_idx) {
            if !matches!(entry.dtype, Dtype::I32 | Dtype::U32) {
                return Err(dtype_error(entry, "I32"));
            }
        }
        let float =
            dense_dtype(scales.dtype).ok_or_else(|| dtype_error(scales, "F32, F16 or BF16"))?;
        let [groups, rows] = matrix_shape(scales, "[groups, outputs]")?;
        let [down, across] = matrix_shape(qweight, "a matrix of words")?;
        let [zero_groups, zero_words] = matrix_shape(qzeros, "[groups, words]")?;
        let bits = match stated {
            Quantization::Awq { bits, .. } => *bits,
            // If layers differ in bits, the rows of `qzeros` give them.
            Quantization::Gptq(gptq) => {
                match zero_words.checked_mul(32).map(|n| (n / rows.max(1), n)) {
                    Some((bits, n)) if n % rows.max(1) == 0 && bits > 0 => bits,
                    _ => gptq.bits,
                }
            }
            _ => 0,
        };
        let packed = |n: usize| n.checked_mul(bits).map(|n| n / 32);
        let cols = match stated {
            Quantization::Awq { .. } => down,
            _ => down.checked_mul(32).and_then(|n| n.checked_div(bits)).unwrap_or(0),
        };
        let expected = match stated {
            Quantization::Awq { .. } => packed(rows).map(|words| [cols, words]),
            _ => packed(cols).map(|words| [words, rows]),
        };
        if expected != Some([down, across]) {
            let expected = format!("words for {rows} outputs of {bits} bits");
            return Err(shape_error(qweight, expected));
        }
        if zero_groups != groups {
            return Err(shape_error(qzeros, format!("{groups} groups")));
        }
        if let Some(g_idx) = g_idx.filter(|entry| *entry.shape != [cols]) {
            return Err(shape_error(g_idx, format!("[{cols}]")));
        }
        let named = match stated {
            Quantization::Gptq(gptq) => gptq.group,
            Quantization::Awq { group, .. } => *group,
            _ => None,
        };
        let group = group_size(cols, groups, named)
            .ok_or_else(|| shape_error(scales, format!("scales for {cols} inputs")))?;
        let (qweight, qzeros) = (self.bytes(qweight)?, self.bytes(qzeros)?);
        let (scales, shape) = (self.bytes(scales)?, [rows, cols]);
        Ok(match stated {
            Quantization::Gptq(stated) => {
                let g_idx = g_idx.map(|entry| self.bytes(entry)).transpose()?;
                let v2 = !stated.zeros_minus_one;
                gptq(&Gptq { shape, bits, group, qweight, qzeros, scales, float, g_idx, v2 })?
            }
            _ => awq(&Awq { shape, group, qweight, qzeros, scales, float })?,
        })
    }

    fn fp8(
        &self,
        layer: &Layer,
        stated: Option<[usize; 2]>,
    ) -> Result<Replacement, ConversionError> {
        let [weight, scale] = layer.entries.as_slice() else {
            let name = format!("{}.weight_scale", layer.prefix);
            return Err(ConversionError::Missing { name });
        };
        let (shape, scale_shape) = match (layer.expert, &*weight.shape) {
            (Some(_), &[experts, rows, cols]) => ([rows, cols], of_one(&scale.shape, experts)),
            _ => (matrix_shape(weight, "a matrix or a stack of them")?, &*scale.shape),
        };
        // modelopt writes scales of blocks as `[down, 1, across, 1]`.
        let squeezed = match *scale_shape {
            [down, 1, across, 1] => [down, across],
            _ => [0; 2],
        };
        let scale_shape = if squeezed == [0; 2] { scale_shape } else { &squeezed };
        let block = block(shape, scale_shape, stated).ok_or_else(|| {
            let by_block =
                stated.map_or(String::new(), |[r, c]| format!(", or one for each {r} x {c}"));
            shape_error(scale, format!("one scale, or one for each of {} rows{by_block}", shape[0]))
        })?;
        let codes = part(self.bytes(weight)?, layer.expert, shape.iter().product());
        let scales: usize = scale_shape.iter().product();
        let size = self.bytes(scale)?.len() / scale.shape.iter().product::<usize>().max(1);
        let own = layer.expert.filter(|_| scales < scale.shape.iter().product());
        let stored = part(self.bytes(scale)?, own, scales * size);
        let powers: Vec<u8>;
        let (float, scales) = match (dense_dtype(scale.dtype), scale.dtype) {
            (Some(float), _) => (float, stored),
            (None, Dtype::F8_E8M0 | Dtype::U8) => {
                powers = stored.iter().flat_map(|&code| e8m0(code).to_le_bytes()).collect();
                (DType::F32, powers.as_slice())
            }
            (None, _) => return Err(dtype_error(scale, "F32, F16, BF16 or F8_E8M0")),
        };
        let source = Fp8 { shape, codes, scales, float, block, factor: true };
        if Format::MXFP8.check_cols(shape[1]).is_err() {
            return Ok(Replacement::Dense { shape, weights: fp8_weights(&source)? });
        }
        Ok(Replacement::Packed(fp8(&source)?))
    }

    fn bytes(&self, entry: &Entry) -> Result<&[u8], ConversionError> {
        let part = self.parts.get(entry.part as usize);
        part.and_then(|part| part.bytes().get(entry.range.clone()))
            .ok_or_else(|| ConversionError::Missing { name: entry.name.to_string() })
    }
}

/// The shape of the scales of one matrix in a stack of `experts`; all of it if the matrices share
/// them.
fn of_one(scales: &[usize], experts: usize) -> &[usize] {
    match scales {
        [first, own @ ..] if *first == experts && !(own.is_empty() && experts == 1) => own,
        _ => scales,
    }
}

/// The bytes of one matrix of `len` bytes in a stack.
fn part(bytes: &[u8], expert: Option<usize>, len: usize) -> &[u8] {
    let Some(expert) = expert else { return bytes };
    let range = expert.checked_mul(len).and_then(|start| Some(start..start.checked_add(len)?));
    range.and_then(|range| bytes.get(range)).unwrap_or_default()
}

/// Inputs per group: as stated, or derived from the number of groups.
fn group_size(cols: usize, groups: usize, stated: Option<usize>) -> Option<usize> {
    let fits = |group: &usize| *group > 0 && cols.div_ceil(*group) == groups;
    stated.filter(fits).or_else(|| cols.checked_div(groups).filter(fits))
}

/// The numbers of rows and columns that share a scale.
fn block(
    [rows, cols]: [usize; 2],
    scales: &[usize],
    stated: Option<[usize; 2]>,
) -> Option<[usize; 2]> {
    let divided = |[block_rows, block_cols]: &[usize; 2]| {
        let fits = |n: usize, block: usize| (block > 0).then(|| n.div_ceil(block));
        Some([fits(rows, *block_rows)?, fits(cols, *block_cols)?])
    };
    match *scales {
        [] | [1] | [1, 1] => Some([rows.max(1), cols.max(1)]),
        [n] | [n, 1] if n == rows && stated.and_then(|s| divided(&s)) != Some([n, 1]) => {
            Some([1, cols.max(1)])
        }
        [down, across] => {
            let equal = [rows.checked_div(down)?, cols.checked_div(across)?];
            [stated, Some(equal)]
                .into_iter()
                .flatten()
                .find(|block| divided(block) == Some([down, across]))
        }
        _ => None,
    }
}

fn matrix_shape(entry: &Entry, expected: &str) -> Result<[usize; 2], ConversionError> {
    match *entry.shape {
        [rows, cols] => Ok([rows, cols]),
        _ => Err(shape_error(entry, expected)),
    }
}

fn shape_error(entry: &Entry, expected: impl Into<String>) -> ConversionError {
    let (name, found) = (entry.name.to_string(), entry.shape.to_vec());
    ConversionError::Shape { name, found, expected: expected.into() }
}

fn dtype_error(entry: &Entry, expected: &'static str) -> ConversionError {
    let (name, found) = (entry.name.to_string(), entry.dtype.to_string());
    ConversionError::Dtype { name, found, expected }
}

/// Runs `work` on each item, on as many threads as the machine has. Results are in the order of the
/// items.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let share = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(item)));
        }
    };
    let mut all: Vec<(usize, R)> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (1..threads)
            // If a thread can't be started, the others do its share.
            .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, share).ok())
            .collect();
        let mut all = share();
        for handle in spawned {
            match handle.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests;
