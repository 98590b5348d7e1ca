//! The language model of Qwen 3.5 with experts (Qwen team, 2026): layers as in Qwen 3.5, each followed by experts beside a gated shared
//! one.

use super::Family;
use crate::delta::DeltaShape;
use crate::experts::{CountDefaults, Counts, named_experts, with_gated_shared};
use crate::frame::FrameDefaults;
use crate::hybrid::QwenHybrid;
use crate::transformer::HeadDefaults;
use crate::{Config, Mixer, ModelError, ModelSpec, PredictionHead};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_5_moe_text",
    class: "Qwen3_5MoeForCausalLM",
    spec,
    // mlx-lm stores 1 + w in place of the norms' weights w.
    in_mlx: false,
    older_fields: super::mlx::older_experts,
    unfold: Some(crate::hybrid::unfold),
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let (model, experts) = read(config)?;
    let experts = |_, prefix: &str| experts.mixer(&model, prefix);
    model.model(FAMILY.model_type, DeltaShape::separate, experts)
}

/// Its head that predicts a further token.
pub(crate) fn prediction_head(config: &Config) -> Result<PredictionHead, ModelError> {
    let (model, experts) = read(config)?;
    model.prediction_head(FAMILY.model_type, |prefix| experts.mixer(&model, prefix))
}

/// The experts of a layer.
struct Experts {
    counts: Counts,
    inner: usize,
    shared_inner: usize,
}

impl Experts {
    fn mixer(&self, model: &QwenHybrid<'_>, prefix: &str) -> Mixer {
        let (frame, activation) = (&model.frame, model.activation);
        // Scores always sum to 1.
        let sizes = [frame.hidden, self.inner];
        let moe = named_experts(prefix, self.counts, sizes, activation, true);
        Mixer::Moe(with_gated_shared(moe, frame, prefix, self.shared_inner, activation))
    }
}

/// The model around its experts, and these.
fn read(config: &Config) -> Result<(QwenHybrid<'_>, Experts), ModelError> {
    let model = QwenHybrid::read(
        config,
        FrameDefaults { hidden: 2048, vocab: 248320, layers: 40, eps: 1e-6, tied: false },
        HeadDefaults { heads: 16, kv_heads: Some(2), head_dim: Some(256) },
    )?;
    let frame = &model.frame;
    let inner = frame.inner("moe_intermediate_size", 512)?;
    let shared_inner = frame.inner("shared_expert_intermediate_size", 512)?;
    let defaults = CountDefaults { experts: 256, top_k: 8 };
    let counts = Counts::read(frame, frame.layers, defaults)?;
    counts.check_stacks([frame.hidden, inner])?;
    Ok((model, Experts { counts, inner, shared_inner }))
}

#[cfg(test)]
#[path = "qwen3_5_moe_text_tests.rs"]
mod tests;
