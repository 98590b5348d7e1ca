//! [`Quantization`]: the quantization described by `config.json`.
//!
//! Shapes and types decide which MLX format each tensor has. The config tells which layout family
//! it is, adds the few facts of other layouts that shapes don't show, and lets a loader report a
//! disagreement.

use std::collections::BTreeMap;

use kinglet_quant::{Format, Mode};
use serde_json::Value;

use crate::config::{Config, Fields};
use crate::{ModelError, frame::limit};

/// Maximum number of entries in a list of module names, or of formats by layer.
const MAX_ENTRIES: usize = 1 << 18;

/// The supported methods, for messages.
const METHODS: &str = "supported: MLX's layout (affine, mxfp4, mxfp8, nvfp4), gptq, awq (gemm), fp8, fbgemm_fp8, \
     modelopt (FP8) and compressed-tensors with float-quantized weights of 8 bits";

/// Quantization of the weights according to `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantization {
    /// MLX's layout, which the kernels use.
    Mlx(MlxQuantization),
    /// GPTQ (Frantar et al., 2022) in the layout of AutoGPTQ and its successors: `qweight`,
    /// `qzeros`, `scales`, `g_idx`.
    Gptq(Gptq),
    /// AWQ (Lin et al., 2023) in the layout of AutoAWQ (`gemm`): `qweight`, `qzeros`, `scales`.
    Awq {
        /// Bits per code.
        bits: usize,
        /// Inputs per group; `None` for all of them.
        group: Option<usize>,
    },
    /// F8 E4M3 weights, each with a `weight_scale` or `weight_scale_inv`.
    Fp8 {
        /// Rows and columns that share a scale, if scales are per block.
        block: Option<[usize; 2]>,
    },
}

/// The contents of MLX's `quantization` field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MlxQuantization {
    /// Format of quantized layers without an entry; `None` if not given.
    default: Option<Format>,
    /// Entries of single layers by module path; `None` means not quantized.
    layers: BTreeMap<String, Option<Format>>,
    /// The first stated format that does not exist; it is ignored.
    impossible: Option<String>,
}

/// What MLX's `quantization` field states for a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stated {
    /// It has an entry with this format.
    Format(Format),
    /// It has an entry that says not quantized.
    Dense,
    /// It has no entry: this format, if it is quantized at all.
    Default(Format),
    /// Nothing is stated.
    Nothing,
}

impl MlxQuantization {
    /// The statement for the module `path` (its tensor's name without `.weight`).
    pub fn stated(&self, path: &str) -> Stated {
        match (self.layers.get(path), self.default) {
            (Some(Some(format)), _) => Stated::Format(*format),
            (Some(None), _) => Stated::Dense,
            (None, Some(format)) => Stated::Default(format),
            (None, None) => Stated::Nothing,
        }
    }

    /// Format of layers without an entry.
    pub fn default_format(&self) -> Option<Format> {
        self.default
    }

    /// The first stated format that does not exist, with the reason (the mode may be missing, for
    /// example). Such a statement is ignored: the shapes decide.
    pub fn impossible(&self) -> Option<&str> {
        self.impossible.as_deref()
    }

    /// Modules with an entry of their own, and their formats; `None` for those that are not
    /// quantized.
    pub fn layers(&self) -> impl Iterator<Item = (&str, Option<Format>)> {
        self.layers.iter().map(|(path, format)| (path.as_str(), *format))
    }
}

/// Facts about GPTQ weights that their shapes don't show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gptq {
    /// Bits per code: 2, 3, 4 or 8.
    pub bits: usize,
    /// Inputs per group; `None` for all of them.
    pub group: Option<usize>,
    /// Whether stored zero points are one less than the real ones (all but `"checkpoint_format":
    /// "gptq_v2"`).
    pub zeros_minus_one: bool,
}

impl Config {
    /// How the weights are quantized; `None` if the config does not say.
    ///
    /// # Errors
    /// If the description is invalid or not supported.
    pub fn quantization(&self) -> Result<Option<Quantization>, ModelError> {
        let fields = self.fields();
        // As in mlx-lm, whose own field comes first; it writes a copy under the second name.
        if let Some(stated) = fields.object("quantization")? {
            // modelopt's `hf_quant_config.json` has its algorithm in a field of this name.
            return if ["quant_method", ALGORITHM].iter().any(|key| stated.get(key).is_some()) {
                method(&stated)
            } else {
                Ok(Some(Quantization::Mlx(mlx(&stated)?)))
            };
        }
        for key in ["quantization_config", "compression_config"] {
            if let Some(stated) = fields.object(key)?.filter(|stated| !stated.is_empty()) {
                return method(&stated);
            }
        }
        Ok(None)
    }
}

/// Parses a `quantization_config` of any method; `None` if it says that weights are not quantized.
fn method(stated: &Fields<'_>) -> Result<Option<Quantization>, ModelError> {
    const METHOD: &str = "quant_method";
    let sparse = ["config_groups", "sparsity_config"].iter().any(|key| stated.get(key).is_some());
    Ok(Some(match stated.str(METHOD)? {
        Some("bitsandbytes") | None if bitsandbytes(stated)?.is_some() => return Ok(None),
        None if stated.get(ALGORITHM).is_some() => modelopt(stated)?,
        Some("modelopt" | "modelopt_fp8") => modelopt(stated)?,
        // MLX's copy of its own field names no method.
        None if !sparse => Quantization::Mlx(mlx(stated)?),
        None | Some("compressed-tensors" | "compressed_tensors") => {
            return compressed_tensors(stated);
        }
        // If the shapes are not in MLX's layout, the tensors are reported as missing later.
        Some(name @ ("mxfp4" | "mxfp8" | "nvfp4" | "mlx" | "affine")) => {
            let mode = name.parse::<Mode>().ok();
            let default = mode.and_then(|mode| Format::new(mode, None, None).ok());
            Quantization::Mlx(MlxQuantization { default, ..Default::default() })
        }
        Some("gptq") => gptq(stated)?,
        Some("awq") => awq(stated)?,
        Some("fp8") => fp8(stated)?,
        Some("fbgemm_fp8") => Quantization::Fp8 { block: None },
        Some(_) => return Err(stated.unsupported(METHOD, METHODS)),
    }))
}

/// `Some` if the fields of bitsandbytes are present and disable it. Old files have them without a
/// method.
fn bitsandbytes(stated: &Fields<'_>) -> Result<Option<()>, ModelError> {
    let mut found = None;
    for key in ["load_in_8bit", "load_in_4bit"] {
        if stated.bool_or(key, false)? {
            return Err(stated.unsupported(key, METHODS));
        }
        if stated.get(key).is_some() {
            found = Some(());
        }
    }
    Ok(found)
}

/// `{"group_size": 64, "bits": 4, "mode": "affine", "PATH": {..} | false, ..}`.
fn mlx(stated: &Fields<'_>) -> Result<MlxQuantization, ModelError> {
    let mut found = MlxQuantization::default();
    if ["group_size", "bits", "mode"].iter().any(|key| stated.get(key).is_some()) {
        found.default = format(stated, &mut found.impossible)?;
    }
    for (path, value) in stated.entries() {
        let entry = match value {
            Value::Object(_) => match stated.object(path)? {
                Some(fields) => match format(&fields, &mut found.impossible)? {
                    Some(format) => Some(format),
                    None => continue,
                },
                None => continue,
            },
            Value::Bool(false) => None,
            // `true` means the same as no entry; other values are not entries.
            _ => continue,
        };
        if found.layers.len() >= MAX_ENTRIES {
            return Err(too_many(stated, path, found.layers.len()));
        }
        found.layers.insert(path.into(), entry);
    }
    Ok(found)
}

/// The format of an object with `group_size`, `bits` and `mode`, each of which may be missing or
/// `null`. Without a mode it is affine, whatever the mode of other layers. If there is no such
/// format, returns `None` and sets `impossible`.
fn format(
    stated: &Fields<'_>,
    impossible: &mut Option<String>,
) -> Result<Option<Format>, ModelError> {
    const MODE: &str = "mode";
    let mode: Mode = match stated.str(MODE)? {
        None => Mode::Affine,
        Some(name) => name
            .parse()
            .map_err(|_| stated.unsupported(MODE, "supported: affine, mxfp4, mxfp8, nvfp4"))?,
    };
    let bits = stated.size("bits", 1, 64)?;
    let group = stated.size("group_size", 1, limit::WIDTH)?;
    match Format::new(mode, bits, group) {
        Ok(format) => Ok(Some(format)),
        Err(error) => {
            impossible.get_or_insert_with(|| format!("`{}`: {error}", stated.path("bits")));
            Ok(None)
        }
    }
}

fn too_many(stated: &Fields<'_>, path: &str, found: usize) -> ModelError {
    ModelError::OutOfRange {
        field: stated.path(&crate::config::shorten(path)),
        value: format!("entry {}", found + 1),
        expected: format!("at most {MAX_ENTRIES} entries"),
    }
}

fn gptq(stated: &Fields<'_>) -> Result<Quantization, ModelError> {
    let bits = bits(stated, &[2, 3, 4, 8])?;
    const FORMAT: &str = "checkpoint_format";
    let zeros_minus_one = match stated.str(FORMAT)? {
        None | Some("gptq" | "") => true,
        Some("gptq_v2") => false,
        Some(_) => return Err(stated.unsupported(FORMAT, "supported: gptq, gptq_v2")),
    };
    Ok(Quantization::Gptq(Gptq { bits, group: group(stated)?, zeros_minus_one }))
}

fn awq(stated: &Fields<'_>) -> Result<Quantization, ModelError> {
    const VERSION: &str = "version";
    match stated.str(VERSION)?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("gemm") => {}
        Some(_) => return Err(stated.unsupported(VERSION, "supported: gemm")),
    }
    Ok(Quantization::Awq { bits: bits(stated, &[4])?, group: group(stated)? })
}

/// `bits` (`w_bit` in old files), which must be one of `known`.
fn bits(stated: &Fields<'_>, known: &[usize]) -> Result<usize, ModelError> {
    let key = if stated.get("bits").is_some() { "bits" } else { "w_bit" };
    let Some(bits) = stated.size(key, 1, 64)? else {
        return Err(ModelError::Missing {
            field: stated.path("bits"),
            expected: "the number of bits per weight",
        });
    };
    if !known.contains(&bits) {
        let known: Vec<_> = known.iter().map(ToString::to_string).collect();
        return Err(stated.unsupported(key, format!("supported: {} bits", known.join(", "))));
    }
    Ok(bits)
}

/// `group_size` (`q_group_size` in old files); -1 means all inputs.
fn group(stated: &Fields<'_>) -> Result<Option<usize>, ModelError> {
    let key = if stated.get("group_size").is_some() { "group_size" } else { "q_group_size" };
    match stated.get(key).and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        _ => stated.size(key, 1, limit::WIDTH),
    }
}

fn fp8(stated: &Fields<'_>) -> Result<Quantization, ModelError> {
    const FORMAT: &str = "fmt";
    if stated.str(FORMAT)?.is_some_and(|name| name != "e4m3") {
        return Err(stated.unsupported(FORMAT, "e4m3 is"));
    }
    Ok(Quantization::Fp8 { block: block(stated, "weight_block_size")? })
}

/// Field of modelopt's description.
const ALGORITHM: &str = "quant_algo";

/// Parses what NVIDIA's modelopt writes. Which modules it left out shows in the tensors' types.
fn modelopt(stated: &Fields<'_>) -> Result<Quantization, ModelError> {
    let name = stated.str(ALGORITHM)?.map(str::to_ascii_uppercase);
    match name.as_deref() {
        Some("FP8" | "FP8_PER_CHANNEL_PER_TOKEN") => Ok(Quantization::Fp8 { block: None }),
        // Weights only, with a scale for each block.
        Some("FP8_PB_WO") => Ok(Quantization::Fp8 { block: Some([128, 128]) }),
        _ => Err(stated.unsupported(
            ALGORITHM,
            "supported: FP8, FP8_PER_CHANNEL_PER_TOKEN and FP8_PB_WO; store others in another format or unquantized",
        )),
    }
}

/// Rows and columns of a block.
fn block(stated: &Fields<'_>, key: &str) -> Result<Option<[usize; 2]>, ModelError> {
    let Some(sizes) = stated.sizes(key, 1, limit::WIDTH)? else { return Ok(None) };
    match sizes.as_slice() {
        [rows, cols] => Ok(Some([*rows, *cols])),
        _ => Err(ModelError::WrongLength {
            field: stated.path(key),
            found: sizes.len(),
            expected: 2,
            because: "rows and columns of a block",
        }),
    }
}

/// Parses the `quantization_config` of compressed-tensors: groups of layers, each with a scheme for
/// its weights. `None` if no group has quantized weights, or all are stored unquantized.
fn compressed_tensors(stated: &Fields<'_>) -> Result<Option<Quantization>, ModelError> {
    const FORMAT: &str = "format";
    const DENSE: &str = "dense";
    if let Some(sparsity) = stated.object("sparsity_config")?
        && sparsity.str(FORMAT)?.is_some_and(|name| name != DENSE)
    {
        return Err(sparsity.unsupported(FORMAT, "supported: dense"));
    }
    let format = stated.str(FORMAT)?;
    const GROUPS: &str = "config_groups";
    let groups = stated.object(GROUPS)?;
    if format == Some(DENSE) || groups.as_ref().is_some_and(Fields::is_empty) {
        return Ok(None);
    }
    let supported = "supported: float-quantized weights of 8 bits (F8 E4M3); store others in another format or unquantized";
    // The format may also be given per group.
    if format.is_some_and(|name| !matches!(name, "float-quantized" | "mixed-precision")) {
        return Err(stated.unsupported(FORMAT, supported));
    }
    let Some(groups) = groups else {
        if format.is_none() {
            return Ok(None);
        }
        let field = stated.path(GROUPS);
        return Err(ModelError::Missing { field, expected: "groups of layers with their schemes" });
    };
    let mut quantized = false;
    let mut blocks = None;
    for (name, value) in groups.entries() {
        // Old files write `null` for an unquantized group.
        let Some(group) = (if value.is_null() { None } else { groups.object(name)? }) else {
            continue;
        };
        match group.str(FORMAT)? {
            Some(DENSE) => continue,
            None | Some("float-quantized") => {}
            Some(_) => return Err(group.unsupported(FORMAT, supported)),
        }
        let Some(weights) = group.object("weights")? else { continue };
        quantized = true;
        if weights.size("num_bits", 1, 64)?.is_some_and(|bits| bits != 8) {
            return Err(weights.unsupported("num_bits", supported));
        }
        if weights.str("type")?.is_some_and(|name| name != "float") {
            return Err(weights.unsupported("type", supported));
        }
        const STRATEGY: &str = "strategy";
        match weights.str(STRATEGY)? {
            None | Some("tensor" | "channel") => {}
            Some("block") => {
                let own = block(&weights, "block_structure")?;
                if own.is_none() || blocks.is_some_and(|other| Some(other) != own) {
                    return Err(weights.unsupported(
                        "block_structure",
                        "supported: one block size for all layers",
                    ));
                }
                blocks = own;
            }
            Some(_) => {
                return Err(weights.unsupported(STRATEGY, "supported: tensor, channel, block"));
            }
        }
    }
    Ok(quantized.then_some(Quantization::Fp8 { block: blocks }))
}

#[cfg(test)]
#[path = "quantization_tests.rs"]
mod tests;
