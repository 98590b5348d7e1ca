//! Bamba (IBM, Princeton, CMU and UIUC, 2024): layers of Mamba-2 or attention, each followed by a
//! dense feed-forward network. Part of each attention head is rotated.

use super::Family;
use super::mamba2::Mamba2Shape;
use crate::frame::{Frame, FrameDefaults, FrameNames, MODEL};
use crate::rope::{RopeDefaults, rope};
use crate::transformer::{HeadDefaults, Heads};
use crate::{Config, Mixer, ModelError, ModelSpec};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "bamba",
    class: "BambaForCausalLM",
    spec,
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(
        config,
        FrameNames { norm: "model.final_layernorm", ..MODEL },
        FrameDefaults { hidden: 4096, vocab: 128000, layers: 32, eps: 1e-5, tied: false },
    )?;
    frame.refuse_window()?;
    let fields = &frame.fields;
    let is_attention = attention_layers(&frame)?;

    // Ignore the fields of a kind of layer that the model does not have.
    let mamba = match is_attention.contains(&false) {
        true => Some(Mamba2Shape::hybrid(&frame)?),
        false => None,
    };
    let attention = match is_attention.contains(&true) {
        true => {
            let defaults = HeadDefaults { heads: 32, kv_heads: Some(8), head_dim: None };
            let heads = Heads::read(&frame, defaults)?;
            let defaults =
                RopeDefaults { theta: 10000.0, partial: Some(0.5), max_positions: 262144 };
            let rope = rope(fields, heads.head_dim, defaults)?;
            Some((heads, rope, fields.bool_or("attention_bias", false)?))
        }
        false => None,
    };
    let inner = frame.inner("intermediate_size", 14336)?;
    let mlp_bias = fields.bool_or("mlp_bias", false)?;
    let activation = frame.activation()?;

    let mut blocks = Vec::new();
    for (layer, is_attention) in is_attention.into_iter().enumerate() {
        let prefix = format!("model.layers.{layer}");
        let mixer = match (&attention, &mamba) {
            (Some((heads, rope, bias)), _) if is_attention => {
                let (prefix, bias) = (format!("{prefix}.self_attn"), (*bias, *bias));
                Some(Mixer::Attention(heads.attention(
                    &prefix,
                    frame.hidden,
                    bias,
                    Some(rope.clone()),
                )))
            }
            (_, mamba) => mamba.map(|mamba| mamba.mixer(&format!("{prefix}.mamba"))),
        };
        blocks.extend(
            mixer.map(|mixer| frame.block(layer, &format!("{prefix}.input_layernorm"), mixer)),
        );
        let dense = frame.dense(&format!("{prefix}.feed_forward"), inner, activation, mlp_bias);
        let norm = format!("{prefix}.pre_ff_layernorm");
        blocks.push(frame.block(layer, &norm, Mixer::Dense(dense)));
    }
    frame.model("bamba", blocks)
}

/// Whether each layer is attention: those in `attn_layer_indices`. A list of layer types, which the
/// reference derives and does not read, must agree.
fn attention_layers(frame: &Frame<'_>) -> Result<Vec<bool>, ModelError> {
    const INDICES: &str = "attn_layer_indices";
    let indices = frame.fields.sizes(INDICES, 0, usize::MAX)?;
    let types = frame.layer_types(&["layer_types", "layers_block_type"])?;
    let mut is_attention = vec![false; frame.layers];
    for index in indices.iter().flatten() {
        if let Some(layer) = is_attention.get_mut(*index) {
            *layer = true;
        }
    }
    let Some(types) = types else { return Ok(is_attention) };
    for (layer, (name, is_attention)) in types.iter().zip(&mut is_attention).enumerate() {
        match (*name, indices.is_some()) {
            ("full_attention", true) if *is_attention => {}
            ("linear_attention", true) if !*is_attention => {}
            ("full_attention", false) => *is_attention = true,
            ("linear_attention", false) => {}
            (_, true) => {
                let expected = if *is_attention { "full_attention" } else { "linear_attention" };
                return Err(frame.unknown_layer(layer, name, &[expected]));
            }
            (_, false) => {
                let known = ["linear_attention", "full_attention"];
                return Err(frame.unknown_layer(layer, name, &known));
            }
        }
    }
    Ok(is_attention)
}

#[cfg(test)]
#[path = "bamba_tests.rs"]
mod tests;
