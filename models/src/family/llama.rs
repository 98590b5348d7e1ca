//! Llama ("The Llama 3 Herd of Models", 2024) and the many models of the same shape.

use super::Family;
use crate::frame::{FrameDefaults, MODEL};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Config, ModelError, ModelSpec};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 4096, vocab: 32000, layers: 32, eps: 1e-6, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: None, head_dim: None },
    theta: 10000.0,
    max_positions: 2048,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    class: "LlamaForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let frame = &model.frame;
    frame.refuse_window()?;
    let inner = frame.inner("intermediate_size", 11008)?;
    let bias = frame.fields.bool_or("attention_bias", false)?;
    let mlp_bias = frame.fields.bool_or("mlp_bias", false)?;
    let blocks = model.blocks(|_, prefix| {
        (model.attention(prefix, (bias, bias)), model.mlp(prefix, inner, mlp_bias))
    });
    frame.model("llama", blocks)
}

#[cfg(test)]
#[path = "llama_tests.rs"]
mod tests;
