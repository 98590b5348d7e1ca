//! Qwen 2 and 2.5 ("Qwen2 Technical Report", 2024): Llama with biases on queries, keys and values, and
//! a sliding window in some layers if switched on.

use super::Family;
use crate::frame::{FrameDefaults, MODEL};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Attention, Config, ModelError, ModelSpec};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 4096, vocab: 151936, layers: 32, eps: 1e-6, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: Some(32), head_dim: None },
    theta: 10000.0,
    max_positions: 32768,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let inner = model.frame.inner("intermediate_size", 22016)?;
    let windows = model.windows_by_layer()?;
    let blocks = model.blocks(|layer, prefix| {
        let window = windows.get(layer).copied().flatten();
        let attention = Attention { window, ..model.attention(prefix, (true, false)) };
        (attention, model.mlp(prefix, inner, false))
    });
    model.frame.model("qwen2", blocks)
}

#[cfg(test)]
#[path = "qwen2_tests.rs"]
mod tests;
