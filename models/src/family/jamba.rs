//! Jamba (Lieber et al., "Jamba: A Hybrid Transformer-Mamba Language Model", 2024): layers of Mamba or attention without positions, each
//! followed by a feed-forward network or by experts.

use super::Family;
use super::mamba::{MambaShape, dt_rank};
use super::mamba2::inner;
use crate::config::Fields;
use crate::experts::{CountDefaults, Counts, separate_experts};
use crate::frame::{Frame, FrameDefaults, FrameNames, MODEL, limit};
use crate::transformer::{HeadDefaults, Heads};
use crate::{
    BcdtNorm, BcdtWeights, Config, Linear, Mixer, ModelError, ModelSpec, Moe, Router, TensorSpec,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "jamba",
    class: "JambaForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(
        config,
        FrameNames { norm: "model.final_layernorm", ..MODEL },
        FrameDefaults { hidden: 4096, vocab: 65536, layers: 32, eps: 1e-6, tied: false },
    )?;
    frame.refuse_window()?;
    let (fields, hidden) = (&frame.fields, frame.hidden);
    let attention = Every::read(fields, ["attn_layer_period", "attn_layer_offset"], [8, 4])?;
    let experts = Every::read(fields, ["expert_layer_period", "expert_layer_offset"], [2, 1])?;
    let activation = frame.activation()?;
    let width = frame.inner("intermediate_size", 14336)?;
    // One expert is a network for all tokens.
    let layers = (0..frame.layers).filter(|layer| experts.has(*layer)).count();
    let counts = Counts::read(&frame, layers, CountDefaults { experts: 16, top_k: 2 })?;
    let counts = Some(counts).filter(|counts| counts.experts > 1);

    // Fields of a kind of layer that the model does not have may hold anything.
    let heads = match (0..frame.layers).any(|layer| attention.has(layer)) {
        true => {
            let defaults = HeadDefaults { heads: 32, kv_heads: Some(8), head_dim: None };
            Some(Heads::read(&frame, defaults)?)
        }
        false => None,
    };
    let mamba = match (0..frame.layers).all(|layer| attention.has(layer)) {
        true => None,
        false => Some(mamba(&frame)?),
    };

    let mut blocks = Vec::new();
    for layer in 0..frame.layers {
        let prefix = format!("model.layers.{layer}");
        let mixer = match (heads, mamba) {
            (Some(heads), _) if attention.has(layer) => {
                let prefix = format!("{prefix}.self_attn");
                Some(Mixer::Attention(heads.attention(&prefix, hidden, (false, false), None)))
            }
            (_, mamba) => mamba.map(|shape| {
                let prefix = format!("{prefix}.mamba");
                let norm = |name: &str, width: usize| {
                    TensorSpec::new(format!("{prefix}.{name}_layernorm.weight"), [width])
                };
                let weights = BcdtWeights {
                    dt: norm("dt", shape.dt_rank),
                    b: norm("b", shape.state),
                    c: norm("c", shape.state),
                };
                let mut mamba = shape.layer(&prefix);
                mamba.bcdt_norm = Some(BcdtNorm { eps: frame.eps, weights: Some(weights) });
                Mixer::Mamba(mamba)
            }),
        };
        blocks.extend(
            mixer.map(|mixer| frame.block(layer, &format!("{prefix}.input_layernorm"), mixer)),
        );
        let norm = format!("{prefix}.pre_ff_layernorm");
        let prefix = format!("{prefix}.feed_forward");
        let mixer = match counts.filter(|_| experts.has(layer)) {
            Some(Counts { experts, top_k }) => {
                let names = ["gate_proj", "up_proj", "down_proj"];
                let router = Linear::new(&format!("{prefix}.router"), experts, hidden, false);
                Mixer::Moe(Moe {
                    router: Router::softmax(router, top_k, false),
                    experts: separate_experts(&prefix, experts, names, [hidden, width], activation),
                    expert_norm: None,
                    latent: None,
                    shared: None,
                    shared_gate: None,
                })
            }
            None => Mixer::Dense(frame.dense(&prefix, width, activation, false)),
        };
        blocks.push(frame.block(layer, &norm, mixer));
    }
    frame.model("jamba", blocks)
}

fn mamba(frame: &Frame<'_>) -> Result<MambaShape, ModelError> {
    frame.require_silu()?;
    let (fields, hidden) = (&frame.fields, frame.hidden);
    Ok(MambaShape {
        hidden,
        inner: inner(fields, "mamba_expand", hidden)?,
        dt_rank: dt_rank(fields, "mamba_dt_rank", hidden)?,
        state: fields.size_or("mamba_d_state", 16, 1, limit::STATE)?,
        kernel: fields.size_or("mamba_d_conv", 4, 1, limit::KERNEL)?,
        bias: fields.bool_or("mamba_proj_bias", false)?,
        conv_bias: fields.bool_or("mamba_conv_bias", true)?,
    })
}

/// One layer in every `period`, from `offset` on.
#[derive(Clone, Copy, Debug)]
struct Every {
    period: usize,
    offset: usize,
}

impl Every {
    fn read(
        fields: &Fields<'_>,
        [period_key, offset_key]: [&str; 2],
        [period, offset]: [usize; 2],
    ) -> Result<Self, ModelError> {
        let period = fields.size_or(period_key, period, 1, limit::LAYERS)?;
        let offset = fields.size_or(offset_key, offset, 0, limit::LAYERS)?;
        if offset >= period {
            return Err(ModelError::OutOfRange {
                field: fields.path(offset_key),
                value: offset.to_string(),
                expected: format!("less than {period_key} = {period}"),
            });
        }
        Ok(Self { period, offset })
    }

    fn has(self, layer: usize) -> bool {
        layer % self.period == self.offset
    }
}

#[cfg(test)]
#[path = "jamba_tests.rs"]
mod tests;
