//! [`Quantization`]: what `config.json` says of quantized weights.
//!
//! A checkpoint's shapes and types say which MLX format each tensor has, and they are what is followed; the statements here
//! tell whose layout it is at all, the few facts of other layouts that shapes don't show, and let a loader notice where
//! config and shapes disagree.

use std::collections::BTreeMap;

use kinglet_quant::{Format, Mode};
use serde_json::Value;

use crate::config::{Config, Fields};
use crate::{ModelError, frame::limit};

/// Most entries of a list of module names, or of formats by layer.
const MAX_ENTRIES: usize = 1 << 18;

/// What is supported, for messages.
const METHODS: &str = "supported are MLX's layout (affine, mxfp4, mxfp8, nvfp4), gptq, awq (gemm), fp8, fbgemm_fp8 \
     and compressed-tensors with float-quantized weights of 8 bits";

/// How `config.json` says that weights are quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantization {
    /// In MLX's layout, which is the one that is computed on.
    Mlx(MlxQuantization),
    /// GPTQ (Frantar et al., 2022) as AutoGPTQ and its successors store it: `qweight`, `qzeros`, `scales`, `g_idx`.
    Gptq(Gptq),
    /// AWQ (Lin et al., 2023) as AutoAWQ stores it (`gemm`): `qweight`, `qzeros`, `scales`.
    Awq {
        /// Bits of a code.
        bits: usize,
        /// Inputs of a group; `None` for all of them.
        group: Option<usize>,
    },
    /// F8 E4M3 weights with `weight_scale` or `weight_scale_inv` beside them.
    Fp8 {
        /// Rows and columns that share a scale, where scales are by block.
        block: Option<[usize; 2]>,
    },
}

/// What MLX's `quantization` says of each layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MlxQuantization {
    /// The format of layers that have no entry and are quantized; `None` if not given.
    default: Option<Format>,
    /// Entries of single layers by module path; `None` says that the layer is not quantized.
    layers: BTreeMap<String, Option<Format>>,
    /// The first statement of a format that does not exist, which counts as no statement.
    impossible: Option<String>,
}

/// What MLX's `quantization` says of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stated {
    /// An entry of its own: this format.
    Format(Format),
    /// An entry of its own: not quantized.
    Dense,
    /// No entry: this format, if it is quantized at all.
    Default(Format),
    /// Nothing.
    Nothing,
}

impl MlxQuantization {
    /// What is said of the module `path` (the name of its tensor without `.weight`).
    pub fn stated(&self, path: &str) -> Stated {
        match (self.layers.get(path), self.default) {
            (Some(Some(format)), _) => Stated::Format(*format),
            (Some(None), _) => Stated::Dense,
            (None, Some(format)) => Stated::Default(format),
            (None, None) => Stated::Nothing,
        }
    }

    /// The format of layers without an entry.
    pub fn default_format(&self) -> Option<Format> {
        self.default
    }

    /// What the first statement says, and why it cannot be, where the config states a format that does not exist (a mode got lost,
    /// say). Such a statement counts as none: the shapes tell.
    pub fn impossible(&self) -> Option<&str> {
        self.impossible.as_deref()
    }

    /// The modules that have an entry of their own, with their formats; `None` for those that are not quantized.
    pub fn layers(&self) -> impl Iterator<Item = (&str, Option<Format>)> {
        self.layers.iter().map(|(path, format)| (path.as_str(), *format))
    }
}

/// What GPTQ's shapes don't show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gptq {
    /// Bits of a code: 2, 3, 4 or 8.
    pub bits: usize,
    /// Inputs of a group; `None` for all of them.
    pub group: Option<usize>,
    /// Whether stored zero points are one below the real ones (all but `"checkpoint_format": "gptq_v2"`).
    pub zeros_minus_one: bool,
}

impl Config {
    /// How the weights are quantized; `None` if the config says nothing of it.
    ///
    /// # Errors
    /// When it says something that makes no sense or that is not supported.
    pub fn quantization(&self) -> Result<Option<Quantization>, ModelError> {
        let fields = self.fields();
        // As in mlx-lm, whose own field comes first; it writes a copy under the second name.
        if let Some(stated) = fields.object("quantization")? {
            return if stated.get("quant_method").is_some() {
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

/// A `quantization_config`, of whatever method; `None` where it says that weights are not quantized.
fn method(stated: &Fields<'_>) -> Result<Option<Quantization>, ModelError> {
    const METHOD: &str = "quant_method";
    let sparse = ["config_groups", "sparsity_config"].iter().any(|key| stated.get(key).is_some());
    Ok(Some(match stated.str(METHOD)? {
        Some("bitsandbytes") | None if bitsandbytes(stated)?.is_some() => return Ok(None),
        // MLX's copy of its own field has no method.
        None if !sparse => Quantization::Mlx(mlx(stated)?),
        None | Some("compressed-tensors" | "compressed_tensors") => {
            return compressed_tensors(stated);
        }
        // In the layout of MLX by the shapes, else the tensors are found to be missing.
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

/// `Some` where the fields of bitsandbytes are there, and say that it is not used. Old files have them without a method.
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
            // `true` says what no entry says, and other values are no entries.
            _ => continue,
        };
        if found.layers.len() >= MAX_ENTRIES {
            return Err(too_many(stated, path, found.layers.len()));
        }
        found.layers.insert(path.into(), entry);
    }
    Ok(found)
}

/// The format of an object with `group_size`, `bits` and `mode`, each of which may be missing or `null`. Without a mode it is
/// affine, whatever the mode of the other layers. `None` and a message in `impossible` where there is no such format.
fn format(
    stated: &Fields<'_>,
    impossible: &mut Option<String>,
) -> Result<Option<Format>, ModelError> {
    const MODE: &str = "mode";
    let mode: Mode = match stated.str(MODE)? {
        None => Mode::Affine,
        Some(name) => name
            .parse()
            .map_err(|_| stated.unsupported(MODE, "there are affine, mxfp4, mxfp8, nvfp4"))?,
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
        Some(_) => return Err(stated.unsupported(FORMAT, "gptq and gptq_v2 are")),
    };
    Ok(Quantization::Gptq(Gptq { bits, group: group(stated)?, zeros_minus_one }))
}

fn awq(stated: &Fields<'_>) -> Result<Quantization, ModelError> {
    const VERSION: &str = "version";
    match stated.str(VERSION)?.map(str::to_ascii_lowercase).as_deref() {
        None | Some("gemm") => {}
        Some(_) => return Err(stated.unsupported(VERSION, "gemm is")),
    }
    Ok(Quantization::Awq { bits: bits(stated, &[4])?, group: group(stated)? })
}

/// `bits` (`w_bit` in old files), which must be one of `known`.
fn bits(stated: &Fields<'_>, known: &[usize]) -> Result<usize, ModelError> {
    let key = if stated.get("bits").is_some() { "bits" } else { "w_bit" };
    let Some(bits) = stated.size(key, 1, 64)? else {
        return Err(ModelError::Missing {
            field: stated.path("bits"),
            expected: "the bits of a quantized weight",
        });
    };
    if !known.contains(&bits) {
        let known: Vec<_> = known.iter().map(ToString::to_string).collect();
        return Err(stated.unsupported(key, format!("supported are {} bits", known.join(", "))));
    }
    Ok(bits)
}

/// `group_size` (`q_group_size` in old files); -1 stands for all inputs.
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

/// The `quantization_config` of compressed-tensors: groups of layers, each with its own weights' scheme. `None` where no group
/// has quantized weights, or all are stored as plain ones.
fn compressed_tensors(stated: &Fields<'_>) -> Result<Option<Quantization>, ModelError> {
    const FORMAT: &str = "format";
    const DENSE: &str = "dense";
    if let Some(sparsity) = stated.object("sparsity_config")?
        && sparsity.str(FORMAT)?.is_some_and(|name| name != DENSE)
    {
        return Err(sparsity.unsupported(FORMAT, "dense is"));
    }
    let format = stated.str(FORMAT)?;
    const GROUPS: &str = "config_groups";
    let groups = stated.object(GROUPS)?;
    if format == Some(DENSE) || groups.as_ref().is_some_and(Fields::is_empty) {
        return Ok(None);
    }
    let supported = "float-quantized weights of 8 bits (F8 E4M3) are; store others in another way or unquantized";
    // The format may be that of a group as well.
    if format.is_some_and(|name| !matches!(name, "float-quantized" | "mixed-precision")) {
        return Err(stated.unsupported(FORMAT, supported));
    }
    let Some(groups) = groups else {
        if format.is_none() {
            return Ok(None);
        }
        let field = stated.path(GROUPS);
        return Err(ModelError::Missing { field, expected: "groups of layers with their scheme" });
    };
    let mut quantized = false;
    let mut blocks = None;
    for (name, value) in groups.entries() {
        // The old spelling of an unquantized group is `null`.
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
                    return Err(
                        weights.unsupported("block_structure", "one block size for all layers is")
                    );
                }
                blocks = own;
            }
            Some(_) => return Err(weights.unsupported(STRATEGY, "tensor, channel and block are")),
        }
    }
    Ok(quantized.then_some(Quantization::Fp8 { block: blocks }))
}

#[cfg(test)]
#[path = "quantization_tests.rs"]
mod tests;
