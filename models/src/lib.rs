//! Model families of the Kinglet inference engine: turns a `config.json` into a [`ModelSpec`].
//!
//! [`Config`] is the parsed text. [`spec()`] finds the family by `model_type`, and the family reads
//! the fields. Everything particular to a family (names of fields and tensors, defaults, switches)
//! is in its file in `family/`, named like its `model_type`; shared code is in `frame`,
//! `transformer`, `hybrid`, `shared`, `delta`, `experts` and `rope`. Each kind of layer is a file in `layer/`. Nothing here
//! reads files or knows about devices.
//!
//! A config is untrusted input: every size is bounded, every sum and product checked, and what no
//! family computes is an error.

mod aliases;
mod config;
mod delta;
mod error;
mod experts;
mod family;
mod folded;
mod frame;
mod hybrid;
mod latent;
mod layer;
mod layout;
mod prediction;
mod presets;
mod quantization;
mod rope;
mod shared;
mod spec;
mod tensors;
mod transformer;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod testing;

pub use config::{Config, tag_bare_floats};
pub use error::ModelError;
pub use family::mlx::mlx_fields;
pub use folded::FoldError;
pub use layer::*;
pub use layout::Layout;
pub use prediction::{PredictionHead, prediction_head};
pub use presets::{PRESETS, preset};
pub use quantization::{Gptq, MlxQuantization, Quantization, Stated};
pub use spec::*;
pub use tensors::{TensorKind, Tie};

use family::{FAMILIES, SPELLINGS, reader_of_class, reader_of_type};

/// The families: the values of `model_type` that [`spec()`] knows, without the [`spellings`].
pub fn supported() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.model_type)
}

/// Other values of `model_type` that [`spec()`] knows: names that checkpoints of a family had before `transformers` had the family.
pub fn spellings() -> impl Iterator<Item = &'static str> {
    SPELLINGS.iter().map(|spelling| spelling.model_type)
}

/// What the model of `config` computes, and which tensors it needs.
///
/// # Errors
/// If the family is not supported, a field is missing or invalid, or the config requires something
/// that Kinglet does not compute.
pub fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    spec_in(config, Layout::Transformers)
}

/// Like [`spec()`], for a checkpoint in the given `layout`. [`ModelSpec::fit_names`] detects the
/// layout of a given checkpoint.
///
/// The specs of one config in two layouts have the same structure: the same
/// [`matrices`](ModelSpec::matrices) and other tensors in the same order. Only names, row offsets
/// and the shapes of stacks and convolutions differ. For families that mlx-lm lacks or stores
/// unchanged, both are equal.
///
/// # Errors
/// As [`spec()`].
pub fn spec_in(config: &Config, layout: Layout) -> Result<ModelSpec, ModelError> {
    let config = &*config.language();
    let (read, value) = match (config.model_type()?, config.architecture()?) {
        (Some(name), _) => (reader_of_type(name), name),
        (None, Some(name)) => (reader_of_class(name), name),
        (None, None) => {
            return Err(ModelError::NoModelType {
                supported: supported().chain(spellings()).collect(),
            });
        }
    };
    let Some(read) = read else {
        let mut value = format!("{:?}", config::shorten(value));
        if let Some((part, inner)) = config.part_model_type() {
            value += &format!(", with {:?} as its {part}", config::shorten(inner));
        }
        return Err(ModelError::UnknownModelType {
            value,
            supported: supported().chain(spellings()).collect(),
        });
    };
    // Fail now: otherwise packed words could be taken for plain weights.
    config.quantization()?;
    let spec = read(config)?;
    Ok(match layout {
        Layout::Transformers => spec,
        Layout::Mlx => spec.into_mlx(),
    })
}
