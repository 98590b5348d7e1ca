//! Qwen 3 with experts ("Qwen3 Technical Report", 2025), in all layers or in some.

use super::Family;
use super::qwen3::head_norms;
use crate::experts::{CountDefaults, SparseLayers, named_experts};
use crate::frame::{FrameDefaults, MODEL};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Attention, Config, Mixer, ModelError, ModelSpec};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 2048, vocab: 151936, layers: 24, eps: 1e-6, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: Some(4), head_dim: None },
    theta: 10000.0,
    max_positions: 32768,
};

const EXPERTS: CountDefaults = CountDefaults { experts: 128, top_k: 8 };

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::older_experts,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let (frame, fields) = (&model.frame, &model.frame.fields);
    let bias = fields.bool_or("attention_bias", false)?;
    let window = model.switched_window()?; // in every layer, unlike Qwen 2 and 3
    let dense_inner = frame.inner("intermediate_size", 6144)?;
    let inner = frame.inner("moe_intermediate_size", 768)?;
    let renormalize = fields.bool_or("norm_topk_prob", false)?;
    let sparse = SparseLayers::read(frame, EXPERTS, inner)?;

    let blocks = model.blocks(|layer, prefix| {
        let qk_norm = Some(head_norms(frame, prefix, model.heads.head_dim));
        let attention = model.attention(prefix, (bias, bias));
        let feed_forward = match sparse.counts(layer) {
            Some(counts) => {
                let sizes = [frame.hidden, inner];
                Mixer::Moe(named_experts(prefix, counts, sizes, model.activation, renormalize))
            }
            None => model.mlp(prefix, dense_inner, false),
        };
        (Attention { window, qk_norm, ..attention }, feed_forward)
    });
    frame.model("qwen3_moe", blocks)
}

#[cfg(test)]
#[path = "qwen3_moe_tests.rs"]
mod tests;
