//! Granite 3 (IBM, 2024): Llama with factors on embedding, attention, residual stream and logits.

use super::Family;
use crate::frame::{Frame, FrameDefaults, MODEL};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{Config, Mixer, ModelError, ModelSpec};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 4096, vocab: 32000, layers: 32, eps: 1e-6, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: None, head_dim: None },
    theta: 10000.0,
    max_positions: 2048,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "granite",
    class: "GraniteForCausalLM",
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
    let factors = Factors::read(frame)?;
    let blocks = model.blocks(|_, prefix| {
        (model.attention(prefix, (bias, bias)), model.mlp(prefix, inner, mlp_bias))
    });
    Ok(factors.apply(frame.model("granite", blocks)?))
}

/// The factors of all Granite models.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    embedding: f32,
    /// Replaces `1 / sqrt(head_dim)`.
    attention: f32,
    residual: f32,
    logits: f32,
}

impl Factors {
    /// Reads the factors.
    pub(crate) fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let factor = |key| Ok::<_, ModelError>(fields.finite(key)?.unwrap_or(1.0) as f32);
        Ok(Self {
            embedding: factor("embedding_multiplier")?,
            attention: factor("attention_multiplier")?,
            residual: factor("residual_multiplier")?,
            logits: (1.0 / fields.positive("logits_scaling")?.unwrap_or(1.0)) as f32,
        })
    }

    /// Applies these factors to a model.
    pub(crate) fn apply(&self, mut model: ModelSpec) -> ModelSpec {
        model.embedding.scale = self.embedding;
        model.head.scale = self.logits;
        for block in &mut model.blocks {
            block.residual_scale = self.residual;
            for branch in &mut block.branches {
                if let Mixer::Attention(attention) = &mut branch.mixer {
                    attention.scale = self.attention;
                }
            }
        }
        model
    }
}

#[cfg(test)]
#[path = "granite_tests.rs"]
mod tests;
