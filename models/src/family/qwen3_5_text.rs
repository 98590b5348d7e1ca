//! The language model of Qwen 3.5 (Qwen team, 2026): layers as in Qwen3-Next, with projections in tensors of their own and feed-forward
//! networks for all tokens.

use super::Family;
use crate::delta::DeltaShape;
use crate::frame::FrameDefaults;
use crate::hybrid::QwenHybrid;
use crate::transformer::HeadDefaults;
use crate::{Config, ModelError, ModelSpec, PredictionHead};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_5_text",
    class: "Qwen3_5ForCausalLM",
    spec,
    // mlx-lm stores 1 + w in place of the norms' weights w.
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: Some(crate::hybrid::unfold),
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let (model, inner) = read(config)?;
    model.model(FAMILY.model_type, DeltaShape::separate, |_, prefix| model.mlp(prefix, inner))
}

/// Its head that predicts a further token.
pub(crate) fn prediction_head(config: &Config) -> Result<PredictionHead, ModelError> {
    let (model, inner) = read(config)?;
    model.prediction_head(FAMILY.model_type, |prefix| model.mlp(prefix, inner))
}

/// The model around its feed-forward networks, and the inner width of these.
fn read(config: &Config) -> Result<(QwenHybrid<'_>, usize), ModelError> {
    let model = QwenHybrid::read(
        config,
        FrameDefaults { hidden: 4096, vocab: 248320, layers: 32, eps: 1e-6, tied: false },
        HeadDefaults { heads: 16, kv_heads: Some(4), head_dim: Some(256) },
    )?;
    let inner = model.frame.inner("intermediate_size", 12288)?;
    Ok((model, inner))
}

#[cfg(test)]
#[path = "qwen3_5_text_tests.rs"]
mod tests;
