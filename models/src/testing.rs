//! Helpers of the unit tests.

use crate::{
    Attention, Config, Dense, GatedDelta, LatentAttention, LinearAttention, MLstm, Mamba, Mamba2,
    Mixer, ModelError, ModelSpec, Moe, ShortConv, spec,
};
use serde_json::Value;

/// Parses a config into a spec.
pub(crate) fn try_spec(config: &Value) -> Result<ModelSpec, ModelError> {
    spec(&Config::parse(&config.to_string())?)
}

/// The spec of a valid config.
pub(crate) fn spec_of(config: &Value) -> ModelSpec {
    try_spec(config).unwrap_or_else(|error| panic!("{error}\n{config}"))
}

/// The error message of an invalid config.
pub(crate) fn error_of(config: &Value) -> String {
    match try_spec(config) {
        Ok(_) => panic!("no error for {config}"),
        Err(error) => error.to_string(),
    }
}

/// `base` with fields replaced or added by `patch`.
pub(crate) fn with(base: &Value, patch: Value) -> Value {
    let mut config = base.clone();
    for (key, value) in patch.as_object().expect("a patch is an object") {
        config[key] = value.clone();
    }
    config
}

/// `base` without one field.
pub(crate) fn without(base: &Value, key: &str) -> Value {
    let mut config = base.clone();
    config.as_object_mut().expect("a config is an object").remove(key);
    config
}

/// The shape of the tensor `name`, which must be in the spec.
pub(crate) fn shape<'a>(model: &'a ModelSpec, name: &str) -> &'a [usize] {
    let tensor = model.tensors().into_iter().find(|tensor| tensor.name == name);
    &tensor.unwrap_or_else(|| panic!("no tensor {name}")).shape
}

/// Whether the spec needs the tensor `name`.
pub(crate) fn needs(model: &ModelSpec, name: &str) -> bool {
    model.tensors().iter().any(|tensor| tensor.name == name)
}

/// The name of the norm before a block.
pub(crate) fn norm_name(model: &ModelSpec, block: usize) -> &str {
    model.blocks[block].norm.as_ref().map_or("none", |norm| &norm.weight.name)
}

fn mixer(model: &ModelSpec, block: usize) -> &Mixer {
    &model.blocks[block].branches[0].mixer
}

/// Declares a function that returns the mixer of a block, which must be of one kind.
macro_rules! kind {
    ($name:ident, $kind:ident) => {
        /// The mixer of a block, which must be of this kind.
        pub(crate) fn $name(model: &ModelSpec, block: usize) -> &$kind {
            match mixer(model, block) {
                Mixer::$kind(mixer) => mixer,
                other => panic!("block {block} is {other:?}"),
            }
        }
    };
}

kind!(attention, Attention);
kind!(mamba, Mamba);
kind!(mamba2, Mamba2);
kind!(mlstm, MLstm);
kind!(gated_delta, GatedDelta);
kind!(short_conv, ShortConv);
kind!(latent_attention, LatentAttention);
kind!(linear_attention, LinearAttention);
kind!(dense, Dense);
kind!(moe, Moe);
