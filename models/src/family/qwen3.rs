//! Qwen 3 ("Qwen3 Technical Report", 2025): Qwen 2 with a norm on each head's queries and keys, and
//! heads that are not `hidden_size / num_attention_heads` wide.

use super::Family;
use crate::frame::{Frame, FrameDefaults, MODEL};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Attention, Config, ModelError, ModelSpec, QkNorm};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 4096, vocab: 151936, layers: 32, eps: 1e-6, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: Some(32), head_dim: Some(128) },
    theta: 10000.0,
    max_positions: 32768,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let frame = &model.frame;
    let inner = frame.inner("intermediate_size", 22016)?;
    let bias = frame.fields.bool_or("attention_bias", false)?;
    let windows = model.windows_by_layer()?;
    let blocks = model.blocks(|layer, prefix| {
        let window = windows.get(layer).copied().flatten();
        let qk_norm = Some(head_norms(frame, prefix, model.heads.head_dim));
        let attention = model.attention(prefix, (bias, bias));
        (Attention { window, qk_norm, ..attention }, model.mlp(prefix, inner, false))
    });
    frame.model("qwen3", blocks)
}

/// The norms of each head's queries and keys in the layer `PREFIX`.
pub(crate) fn head_norms(frame: &Frame<'_>, prefix: &str, head_dim: usize) -> QkNorm {
    QkNorm::of_heads(&format!("{prefix}.self_attn"), head_dim, frame.eps)
}

#[cfg(test)]
#[path = "qwen3_tests.rs"]
mod tests;
