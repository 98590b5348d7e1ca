//! LFM2 (Liquid AI, "LFM2 Technical Report", arXiv:2511.23404, 2025): layers of a gated short convolution or attention, each followed
//! by a gated feed-forward network.

use serde_json::Value;

use super::Family;
use super::mlx::{NamedField, Root, present};
use crate::config::Fields;
use crate::frame::{Frame, FrameDefaults, FrameNames, MODEL, limit};
use crate::rope::{RopeDefaults, rope};
use crate::transformer::{HeadDefaults, Heads};
use crate::{
    Activation, Attention, Config, Conv, Dense, Linear, Mixer, ModelError, ModelSpec, Norm, QkNorm,
    Rope, ShortConv,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "lfm2",
    class: "Lfm2ForCausalLM",
    spec,
    in_mlx: true,
    older_fields,
    unfold: None,
};

/// The names around the blocks.
pub(super) const NAMES: FrameNames =
    FrameNames { norm: "model.embedding_norm", eps: "norm_eps", ..MODEL };

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let mut frame = Frame::read(
        config,
        NAMES,
        FrameDefaults { hidden: 2560, vocab: 65536, layers: 32, eps: 1e-5, tied: true },
    )?;
    settle_tie(&mut frame)?;
    let inner = inner(&frame.fields)?;
    let blocks = blocks(&frame, |_, prefix| Ok(Mixer::Dense(dense(&frame, prefix, inner))))?;
    frame.model("lfm2", blocks)
}

/// `tie_embedding`, the name in Liquid AI's own code, overrules `tie_word_embeddings`.
pub(super) fn settle_tie(frame: &mut Frame<'_>) -> Result<(), ModelError> {
    const KEY: &str = "tie_embedding";
    if frame.fields.get(KEY).is_some() {
        let tied = frame.fields.bool_or(KEY, true)?;
        frame.set_tied(tied);
    }
    Ok(())
}

/// The blocks of all layers; `feed_forward` makes the second mixer of a layer from its number and the prefix of its tensors.
pub(super) fn blocks(
    frame: &Frame<'_>,
    feed_forward: impl Fn(usize, &str) -> Result<Mixer, ModelError>,
) -> Result<Vec<crate::Block>, ModelError> {
    let types = layer_types(frame)?;
    // Fields of a kind of layer that the model does not have may hold anything.
    let conv = match types.contains(&Kind::Conv) {
        true => Some(ConvFields::read(&frame.fields, 3)?),
        false => None,
    };
    let attention = match types.contains(&Kind::Attention) {
        true => Some(AttentionFields::read(frame)?),
        false => None,
    };
    let mut blocks = Vec::new();
    for (layer, kind) in types.into_iter().enumerate() {
        let prefix = format!("model.layers.{layer}");
        let mixer = match kind {
            Kind::Conv => conv.map(|conv| conv.mixer(frame, &prefix)),
            Kind::Attention => attention.as_ref().map(|fields| fields.mixer(frame, &prefix)),
        };
        let norm = format!("{prefix}.operator_norm");
        blocks.extend(mixer.map(|mixer| frame.block(layer, &norm, mixer)));
        let norm = format!("{prefix}.ffn_norm");
        blocks.push(frame.block(layer, &norm, feed_forward(layer, &prefix)?));
    }
    Ok(blocks)
}

/// The feed-forward network `PREFIX.feed_forward.{w1,w3,w2}`.
pub(super) fn dense(frame: &Frame<'_>, prefix: &str, inner: usize) -> Dense {
    let prefix = format!("{prefix}.feed_forward");
    let linear = |name: &str, outputs, inputs| {
        Linear::new(&format!("{prefix}.{name}"), outputs, inputs, false)
    };
    Dense {
        gate: Some(linear("w1", inner, frame.hidden)),
        up: linear("w3", inner, frame.hidden),
        down: linear("w2", frame.hidden, inner),
        activation: Activation::Silu,
        adapter: None,
        out: None,
    }
}

/// The kind of a layer's first mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Conv,
    Attention,
}

/// The kinds from `layer_types`, else from `full_attn_idxs`; without either, every layer is attention.
fn layer_types(frame: &Frame<'_>) -> Result<Vec<Kind>, ModelError> {
    if let Some(types) = frame.layer_types(&["layer_types"])? {
        let kinds = types.iter().enumerate().map(|(layer, &name)| match name {
            "conv" => Ok(Kind::Conv),
            "full_attention" => Ok(Kind::Attention),
            _ => Err(frame.unknown_layer(layer, name, &["conv", "full_attention"])),
        });
        return kinds.collect();
    }
    let Some(indices) = frame.fields.sizes("full_attn_idxs", 0, usize::MAX)? else {
        return Ok(vec![Kind::Attention; frame.layers]);
    };
    let mut kinds = vec![Kind::Conv; frame.layers];
    for index in indices {
        if let Some(kind) = kinds.get_mut(index) {
            *kind = Kind::Attention;
        }
    }
    Ok(kinds)
}

/// The width of the feed-forward networks. `block_ff_dim`, the name in Liquid AI's own code, overrules `intermediate_size`. With
/// `block_auto_adjust_ff_dim`, the width is two thirds of that, times a factor, rounded up.
fn inner(fields: &Fields<'_>) -> Result<usize, ModelError> {
    let stated = match fields.size("block_ff_dim", 1, limit::WIDTH)? {
        Some(stated) => stated,
        None => fields.size_or("intermediate_size", 12288, 1, limit::WIDTH)?,
    };
    if !fields.bool_or("block_auto_adjust_ff_dim", true)? {
        return Ok(stated);
    }
    const FACTOR: &str = "block_ffn_dim_multiplier";
    let thirds = ((2 * stated) as f64 / 3.0) as usize;
    // The reference rounds up only where there is a factor.
    let inner = if fields.is_null(FACTOR) {
        thirds
    } else {
        let factor = fields.positive(FACTOR)?.unwrap_or(1.0);
        let multiple = fields.size_or("block_multiple_of", 256, 1, limit::WIDTH)?;
        // A float that is too large becomes the largest integer, which the bound refuses.
        let scaled = (factor * thirds as f64) as usize;
        scaled.div_ceil(multiple).saturating_mul(multiple)
    };
    if !(1..=limit::WIDTH).contains(&inner) {
        return Err(ModelError::OutOfRange {
            field: fields.path("intermediate_size"),
            value: format!("{stated}, by which a feed-forward network is {inner} wide"),
            expected: format!("a width from 1 to {}", limit::WIDTH),
        });
    }
    Ok(inner)
}

/// The fields of the convolutions.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvFields {
    kernel: usize,
    bias: bool,
}

impl ConvFields {
    /// Reads them; `kernel` is the number of taps where the config doesn't say.
    pub(super) fn read(fields: &Fields<'_>, kernel: usize) -> Result<Self, ModelError> {
        Ok(Self {
            kernel: fields.size_or("conv_L_cache", kernel, 1, limit::KERNEL)?,
            bias: fields.bool_or("conv_bias", false)?,
        })
    }

    /// The convolution `PREFIX.conv`.
    pub(super) fn mixer(self, frame: &Frame<'_>, prefix: &str) -> Mixer {
        let (hidden, Self { kernel, bias }) = (frame.hidden, self);
        let prefix = format!("{prefix}.conv");
        Mixer::ShortConv(ShortConv {
            in_proj: Linear::new(&format!("{prefix}.in_proj"), 3 * hidden, hidden, bias),
            conv: Conv::new(&format!("{prefix}.conv"), hidden, kernel, bias),
            out_proj: Linear::new(&format!("{prefix}.out_proj"), hidden, hidden, bias),
        })
    }
}

/// The fields of the attention layers.
struct AttentionFields {
    heads: Heads,
    rope: Rope,
}

impl AttentionFields {
    fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        let defaults = HeadDefaults { heads: 32, kv_heads: Some(8), head_dim: None };
        let heads = Heads::read(frame, defaults)?;
        let defaults = RopeDefaults { theta: 1e6, partial: None, max_positions: 128_000 };
        Ok(Self { heads, rope: rope(&frame.fields, heads.head_dim, defaults)? })
    }

    fn mixer(&self, frame: &Frame<'_>, prefix: &str) -> Mixer {
        let prefix = format!("{prefix}.self_attn");
        let rope = Some(self.rope.clone());
        let attention = self.heads.attention(&prefix, frame.hidden, (false, false), rope);
        let (head_dim, wide) = (self.heads.head_dim, self.heads.heads * self.heads.head_dim);
        let norm = |name| Norm::new(&format!("{prefix}.{name}"), head_dim, frame.eps);
        Mixer::Attention(Attention {
            o: Linear::new(&format!("{prefix}.out_proj"), frame.hidden, wide, false),
            qk_norm: Some(QkNorm {
                q: norm("q_layernorm"),
                k: norm("k_layernorm"),
                per_head: true,
            }),
            ..attention
        })
    }
}

/// Fields that mlx-lm demands and `transformers` has defaults for.
fn older_fields(root: &Root) -> Vec<NamedField> {
    let defaults = [
        ("block_dim", present(root, "hidden_size").cloned().unwrap_or_else(|| 2560.into())),
        ("block_multiple_of", 256.into()),
        ("block_ffn_dim_multiplier", Value::from(1.0)),
        ("block_auto_adjust_ff_dim", true.into()),
        ("conv_bias", false.into()),
        ("conv_L_cache", 3.into()),
    ];
    defaults.into_iter().filter(|(key, _)| present(root, key).is_none()).collect()
}

#[cfg(test)]
#[path = "lfm2_tests.rs"]
mod tests;
