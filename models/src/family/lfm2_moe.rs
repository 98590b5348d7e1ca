//! LFM2-MoE (Liquid AI, "LFM2 Technical Report", arXiv:2511.23404, 2025, section 2.3): LFM2 with experts in all but the first layers,
//! chosen by sigmoids with a bias.

use serde_json::Value;

use super::Family;
use super::lfm2::{NAMES, blocks, dense, settle_tie};
use super::mlx::{NamedField, Root, present};
use crate::experts::{CountDefaults, Counts, separate_experts};
use crate::frame::{Frame, FrameDefaults};
use crate::{
    Activation, Config, Linear, Mixer, ModelError, ModelSpec, Moe, Router, Score, TensorSpec,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "lfm2_moe",
    class: "Lfm2MoeForCausalLM",
    spec,
    in_mlx: true,
    older_fields,
    unfold: None,
};

const COUNTS: CountDefaults = CountDefaults { experts: 32, top_k: 4 };

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let mut frame = Frame::read(
        config,
        NAMES,
        FrameDefaults { hidden: 2048, vocab: 65536, layers: 32, eps: 1e-5, tied: true },
    )?;
    settle_tie(&mut frame)?;
    let fields = &frame.fields;
    if ["layer_types", "full_attn_idxs"].iter().all(|key| fields.get(key).is_none()) {
        return Err(ModelError::Missing {
            field: fields.path("layer_types"),
            expected: "the kind of every layer: conv or full_attention",
        });
    }
    let dense_layers = fields.size_or("num_dense_layers", 2, 0, usize::MAX)?.min(frame.layers);
    // Fields of a kind of layer that the model does not have may hold anything.
    let inner = match dense_layers {
        0 => None,
        _ => Some(frame.inner("intermediate_size", 7168)?),
    };
    let experts = match frame.layers - dense_layers {
        0 => None,
        layers => Some(Experts::read(&frame, layers)?),
    };
    let blocks = blocks(&frame, |layer, prefix| {
        Ok(match (&experts, inner) {
            (Some(experts), _) if layer >= dense_layers => {
                Mixer::Moe(experts.moe(frame.hidden, prefix))
            }
            (_, inner) => Mixer::Dense(dense(&frame, prefix, inner.unwrap_or_default())),
        })
    })?;
    frame.model("lfm2_moe", blocks)
}

/// The fields of the experts.
struct Experts {
    counts: Counts,
    inner: usize,
    biased: bool,
    renormalize: bool,
    scale: f32,
}

impl Experts {
    fn read(frame: &Frame<'_>, layers: usize) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let counts = Counts::read(frame, layers, COUNTS)?;
        let inner = frame.inner("moe_intermediate_size", 1792)?;
        counts.check_stacks([frame.hidden, inner])?;
        Ok(Self {
            counts,
            inner,
            biased: fields.bool_or("use_expert_bias", true)?,
            renormalize: fields.bool_or("norm_topk_prob", true)?,
            scale: fields.finite("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        })
    }

    /// The experts `PREFIX.feed_forward.experts.E.{w1,w3,w2}`.
    fn moe(&self, hidden: usize, prefix: &str) -> Moe {
        let Counts { experts, top_k } = self.counts;
        let prefix = format!("{prefix}.feed_forward");
        let (names, sizes) = (["w1", "w3", "w2"], [hidden, self.inner]);
        let bias = || TensorSpec::new(format!("{prefix}.expert_bias"), [experts]);
        Moe {
            router: Router {
                linear: Linear::new(&format!("{prefix}.gate"), experts, hidden, false),
                score: Score::Sigmoid,
                selection_bias: self.biased.then(bias),
                groups: None,
                top_k,
                renormalize: self.renormalize,
                epsilon: 1e-6,
                scale: self.scale,
            },
            experts: separate_experts(&prefix, experts, names, sizes, Activation::Silu),
            expert_norm: None,
            latent: None,
            shared: None,
            shared_gate: None,
        }
    }
}

/// Fields that mlx-lm demands and `transformers` has defaults for.
fn older_fields(root: &Root) -> Vec<NamedField> {
    let defaults = [
        ("num_experts", present(root, "num_local_experts").cloned().unwrap_or_else(|| 32.into())),
        ("num_experts_per_tok", 4.into()),
        ("num_dense_layers", 2.into()),
        ("intermediate_size", 7168.into()),
        ("moe_intermediate_size", 1792.into()),
        ("use_expert_bias", Value::from(true)),
        ("norm_topk_prob", true.into()),
        ("conv_bias", false.into()),
        ("conv_L_cache", 3.into()),
    ];
    defaults.into_iter().filter(|(key, _)| present(root, key).is_none()).collect()
}

#[cfg(test)]
#[path = "lfm2_moe_tests.rs"]
mod tests;
