//! OLMoE (Muennighoff et al., "OLMoE: Open Mixture-of-Experts Language Models", 2024): experts in
//! every layer, a norm over all queries and one over all keys, and clipping.

use super::Family;
use crate::experts::{CountDefaults, Counts, named_experts};
use crate::frame::{FrameDefaults, MODEL, equal};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Attention, Config, Mixer, ModelError, ModelSpec, Norm, QkNorm};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 2048, vocab: 50304, layers: 16, eps: 1e-5, tied: false },
    heads: HeadDefaults { heads: 16, kv_heads: None, head_dim: None },
    theta: 10000.0,
    max_positions: 4096,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "olmoe",
    class: "OlmoeForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::older_experts,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let (frame, heads) = (&model.frame, model.heads);
    frame.refuse_window()?;
    let (wide, narrow) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    // The reference derives the norms' widths from the hidden size.
    equal("num_attention_heads * head_dim", wide, "hidden_size", frame.hidden)?;
    let bias = frame.fields.bool_or("attention_bias", false)?;
    let clip = frame.fields.positive("clip_qkv")?.map(|clip| clip as f32);
    let inner = frame.inner("intermediate_size", 2048)?;
    let counts = Counts::read(frame, frame.layers, CountDefaults { experts: 64, top_k: 8 })?;
    counts.check_stacks([frame.hidden, inner])?;
    let renormalize = frame.fields.bool_or("norm_topk_prob", false)?;

    let blocks = model.blocks(|_, prefix| {
        let qk_norm = Some(QkNorm {
            q: Norm::new(&format!("{prefix}.self_attn.q_norm"), wide, frame.eps),
            k: Norm::new(&format!("{prefix}.self_attn.k_norm"), narrow, frame.eps),
            per_head: false,
        });
        let attention = Attention { qk_norm, clip, ..model.attention(prefix, (bias, bias)) };
        let sizes = [frame.hidden, inner];
        let moe = named_experts(prefix, counts, sizes, model.activation, renormalize);
        (attention, Mixer::Moe(moe))
    });
    frame.model("olmoe", blocks)
}

#[cfg(test)]
#[path = "olmoe_tests.rs"]
mod tests;
