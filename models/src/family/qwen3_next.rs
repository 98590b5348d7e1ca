//! Qwen3-Next (Qwen team, 2025): layers of Gated DeltaNet with gated attention in between, and experts beside a gated shared one.

use super::Family;
use crate::delta::DeltaShape;
use crate::experts::{CountDefaults, SparseLayers, named_experts, with_gated_shared};
use crate::frame::FrameDefaults;
use crate::hybrid::QwenHybrid;
use crate::transformer::HeadDefaults;
use crate::{Config, Mixer, ModelError, ModelSpec, PredictionHead};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_next",
    class: "Qwen3NextForCausalLM",
    spec,
    // mlx-lm stores 1 + w in place of the norms' weights w.
    in_mlx: false,
    older_fields: super::mlx::older_experts,
    unfold: Some(crate::hybrid::unfold),
};

const EXPERTS: CountDefaults = CountDefaults { experts: 512, top_k: 10 };

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let (model, networks) = read(config)?;
    let network = |layer, prefix: &str| networks.mixer(&model, layer, prefix);
    model.model(FAMILY.model_type, DeltaShape::by_key_head, network)
}

/// Its head that predicts a further token. Its layer has experts if the model's first layer does: vLLM counts it as layer 0
/// (`Qwen3NextMultiTokenPredictor`).
pub(crate) fn prediction_head(config: &Config) -> Result<PredictionHead, ModelError> {
    let (model, networks) = read(config)?;
    model.prediction_head(FAMILY.model_type, |prefix| networks.mixer(&model, 0, prefix))
}

/// The feed-forward networks and experts of the layers.
struct Networks {
    dense_inner: usize,
    inner: usize,
    shared_inner: usize,
    renormalize: bool,
    sparse: SparseLayers,
}

impl Networks {
    fn mixer(&self, model: &QwenHybrid<'_>, layer: usize, prefix: &str) -> Mixer {
        let (frame, activation) = (&model.frame, model.activation);
        let Some(counts) = self.sparse.counts(layer) else {
            return model.mlp(prefix, self.dense_inner);
        };
        let sizes = [frame.hidden, self.inner];
        let moe = named_experts(prefix, counts, sizes, activation, self.renormalize);
        Mixer::Moe(with_gated_shared(moe, frame, prefix, self.shared_inner, activation))
    }
}

/// The model around its feed-forward networks, and these.
fn read(config: &Config) -> Result<(QwenHybrid<'_>, Networks), ModelError> {
    let model = QwenHybrid::read(
        config,
        FrameDefaults { hidden: 2048, vocab: 151936, layers: 48, eps: 1e-6, tied: false },
        HeadDefaults { heads: 16, kv_heads: Some(2), head_dim: Some(256) },
    )?;
    let frame = &model.frame;
    let dense_inner = frame.inner("intermediate_size", 5632)?;
    let inner = frame.inner("moe_intermediate_size", 512)?;
    let shared_inner = frame.inner("shared_expert_intermediate_size", 512)?;
    let renormalize = frame.fields.bool_or("norm_topk_prob", true)?;
    let sparse = SparseLayers::read(frame, EXPERTS, inner)?;
    let networks = Networks { dense_inner, inner, shared_inner, renormalize, sparse };
    Ok((model, networks))
}

#[cfg(test)]
#[path = "qwen3_next_tests.rs"]
mod tests;
