//! Mistral (Jiang et al., "Mistral 7B", 2023): Llama with a sliding window in every layer.

use super::Family;
use crate::frame::{FrameDefaults, MODEL};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Attention, Config, ModelError, ModelSpec};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 4096, vocab: 32000, layers: 32, eps: 1e-6, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: Some(8), head_dim: None },
    theta: 10000.0,
    max_positions: 4096 * 32,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    class: "MistralForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let frame = &model.frame;
    let inner = frame.inner("intermediate_size", 14336)?;
    // Later checkpoints write `null` for no window.
    let window = frame.window(Some(4096))?;
    // Models with windows in some layers belong to another family.
    let kind = if window.is_some() { "sliding_attention" } else { "full_attention" };
    for (layer, name) in frame.layer_types(&["layer_types"])?.into_iter().flatten().enumerate() {
        if name != kind {
            return Err(frame.unknown_layer(layer, name, &[kind]));
        }
    }
    let blocks = model.blocks(|_, prefix| {
        let attention = Attention { window, ..model.attention(prefix, (false, false)) };
        (attention, model.mlp(prefix, inner, false))
    });
    frame.model("mistral", blocks)
}

#[cfg(test)]
#[path = "mistral_tests.rs"]
mod tests;
