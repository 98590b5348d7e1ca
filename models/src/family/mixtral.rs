//! Mixtral (Jiang et al., "Mixtral of Experts", 2024): Mistral with experts for its feed-forward network.

use super::Family;
use crate::experts::{CountDefaults, Counts, separate_experts};
use crate::frame::{FrameDefaults, MODEL};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Attention, Config, Linear, Mixer, ModelError, ModelSpec, Moe, Router};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 4096, vocab: 32000, layers: 32, eps: 1e-5, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: Some(8), head_dim: None },
    theta: 1e6,
    max_positions: 4096 * 32,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let (frame, activation) = (&model.frame, model.activation);
    let inner = frame.inner("intermediate_size", 14336)?;
    let counts = Counts::read(frame, frame.layers, CountDefaults { experts: 8, top_k: 2 })?;
    counts.check_stacks([frame.hidden, inner])?;
    let window = frame.window(None)?;
    let blocks = model.blocks(|_, prefix| {
        let attention = Attention { window, ..model.attention(prefix, (false, false)) };
        let (prefix, sizes) = (format!("{prefix}.block_sparse_moe"), [frame.hidden, inner]);
        let names = ["w1", "w3", "w2"];
        let experts = separate_experts(&prefix, counts.experts, names, sizes, activation);
        let router = Linear::new(&format!("{prefix}.gate"), counts.experts, frame.hidden, false);
        let moe = Moe {
            router: Router::softmax(router, counts.top_k, true),
            experts,
            expert_norm: None,
            latent: None,
            shared: None,
            shared_gate: None,
        };
        (attention, Mixer::Moe(moe))
    });
    frame.model("mixtral", blocks)
}

#[cfg(test)]
#[path = "mixtral_tests.rs"]
mod tests;
