//! OLMo Hybrid (Ai2, "OLMo Hybrid", 2026): layers of Gated DeltaNet with attention in between. The norms of a layer with Gated DeltaNet
//! come before its branches, those of a layer with attention after them.

use super::Family;
use super::mlx::{NamedField, Root, present};
use crate::config::Fields;
use crate::delta::DeltaShape;
use crate::frame::{Frame, FrameDefaults, MODEL};
use crate::rope::{RopeDefaults, rope};
use crate::transformer::{HeadDefaults, Heads};
use crate::{
    Attention, Config, Conv, DeltaInputs, DeltaProjection, DeltaProjections, GatedDelta, Linear,
    Mixer, ModelError, ModelSpec, Norm, QkNorm, Rope,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "olmo_hybrid",
    class: "OlmoHybridForCausalLM",
    spec,
    in_mlx: true,
    older_fields,
    unfold: None,
};

/// Fields that mlx-lm has no default for.
fn older_fields(root: &Root) -> Vec<NamedField> {
    let defaults = [
        ("attention_bias", false),
        ("linear_allow_neg_eigval", true),
        ("tie_word_embeddings", false),
    ];
    let absent = defaults.into_iter().filter(|(name, _)| present(root, name).is_none());
    absent.map(|(name, value)| (name, value.into())).collect()
}

/// Epsilon of the norm before the output gate of Gated DeltaNet, which no field sets.
const GATE_NORM_EPS: f32 = 1e-5;

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(
        config,
        MODEL,
        FrameDefaults { hidden: 3840, vocab: 100_352, layers: 32, eps: 1e-6, tied: false },
    )?;
    frame.refuse_window()?;
    let is_attention = layers(&frame)?;
    let defaults = HeadDefaults { heads: 30, kv_heads: None, head_dim: None };
    let heads = Heads::read(&frame, defaults)?;
    // Fields of a kind of layer that the model does not have may hold anything.
    let rotation = match is_attention.contains(&true) {
        true => rotation(&frame.fields, heads.head_dim)?,
        false => None,
    };
    let delta = match is_attention.iter().filter(|&&is_attention| !is_attention).count() {
        0 => None,
        layers => {
            let delta = shape(&frame, heads.heads)?;
            delta.check_layers(layers)?;
            Some(delta)
        }
    };
    let bias = frame.fields.bool_or("attention_bias", false)?;
    let beta_scale = if frame.fields.bool_or("linear_allow_neg_eigval", true)? { 2.0 } else { 1.0 };
    let inner = frame.inner("intermediate_size", 11008)?;
    let activation = frame.activation()?;

    let mut blocks = Vec::new();
    for (layer, &is_attention) in is_attention.iter().enumerate() {
        let prefix = format!("model.layers.{layer}");
        let norm = |name: &str| format!("{prefix}.{name}_layernorm");
        let mlp = Mixer::Dense(frame.dense(&format!("{prefix}.mlp"), inner, activation, false));
        match &delta {
            Some(delta) if !is_attention => {
                let mixer = delta_net(&frame, delta, &prefix, beta_scale);
                blocks.push(frame.block(layer, &norm("input"), Mixer::GatedDelta(mixer)));
                blocks.push(frame.block(layer, &norm("post_attention"), mlp));
            }
            _ => {
                let mixer = Mixer::Attention(attention(&frame, heads, &prefix, &rotation, bias));
                blocks.push(frame.block_before(layer, &norm("post_attention"), mixer));
                blocks.push(frame.block_before(layer, &norm("post_feedforward"), mlp));
            }
        }
    }
    frame.model("olmo_hybrid", blocks)
}

/// Whether each layer is attention: by `layer_types`, else every fourth, and the last if there is no fourth.
fn layers(frame: &Frame<'_>) -> Result<Vec<bool>, ModelError> {
    let Some(types) = frame.layer_types(&["layer_types"])? else {
        let last = frame.layers - 1;
        let is_attention = |layer: usize| layer % 4 == 3 || last < 3 && layer == last;
        return Ok((0..frame.layers).map(is_attention).collect());
    };
    let kinds = types.iter().enumerate().map(|(layer, name)| match *name {
        "full_attention" => Ok(true),
        "linear_attention" => Ok(false),
        _ => Err(frame.unknown_layer(layer, name, &["linear_attention", "full_attention"])),
    });
    kinds.collect()
}

/// The rotation of queries and keys: none where `rope_theta` is `null`, beside the other rotary parameters or without them.
fn rotation(fields: &Fields<'_>, head_dim: usize) -> Result<Option<Rope>, ModelError> {
    const THETA: &str = "rope_theta";
    let scaling = fields.object("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let parameters = match scaling {
        Some(scaling) => Some(scaling),
        None => fields.object("rope_parameters")?,
    };
    let holder = parameters.filter(|held| held.is_null(THETA) || held.get(THETA).is_some());
    if holder.as_ref().unwrap_or(fields).is_null(THETA) {
        return Ok(None);
    }
    let defaults = RopeDefaults { theta: 10000.0, partial: None, max_positions: 65536 };
    rope(fields, head_dim, defaults).map(Some)
}

/// Sizes of Gated DeltaNet. What the config leaves out follows from the heads of attention.
fn shape(frame: &Frame<'_>, heads: usize) -> Result<DeltaShape, ModelError> {
    let fields = &frame.fields;
    let key_heads = fields.size_or("linear_num_key_heads", heads, 1, usize::MAX)?;
    // As the reference rounds it: down, from three quarters in double precision.
    let key_dim = (0.75 * frame.hidden as f64 / key_heads as f64) as usize;
    let key_dim = fields.size_or("linear_key_head_dim", key_dim, 0, usize::MAX)?;
    if key_dim == 0 {
        return Err(ModelError::OutOfRange {
            field: fields.path("linear_key_head_dim"),
            value: format!("0, from hidden_size = {} and {key_heads} heads", frame.hidden),
            expected: "at least 1".into(),
        });
    }
    let value_dim = key_dim.saturating_mul(2);
    DeltaShape { key_heads: heads, value_heads: heads, key_dim, value_dim, kernel: 4 }.read(frame)
}

/// The Gated DeltaNet of the layer `PREFIX`.
fn delta_net(frame: &Frame<'_>, shape: &DeltaShape, prefix: &str, beta_scale: f32) -> GatedDelta {
    let prefix = format!("{prefix}.linear_attn");
    let (keys, values, heads) = (shape.keys(), shape.values(), shape.value_heads);
    let linear =
        |name: &str, rows| Linear::new(&format!("{prefix}.{name}_proj"), rows, frame.hidden, false);
    let conv = |name: &str, channels| {
        Conv::new(&format!("{prefix}.{name}_conv1d"), channels, shape.kernel, false)
    };
    let inputs = DeltaInputs::Separate(Box::new(DeltaProjections {
        q: linear("q", keys),
        k: linear("k", keys),
        v: linear("v", values),
        gate: DeltaProjection::Full(linear("g", values)),
        decay: DeltaProjection::Full(linear("a", heads)),
        beta: linear("b", heads),
    }));
    GatedDelta {
        convs: vec![conv("q", keys), conv("k", keys), conv("v", values)],
        beta_scale,
        norm: Norm::new(&format!("{prefix}.o_norm"), shape.value_dim, GATE_NORM_EPS),
        out_proj: Linear::new(&format!("{prefix}.o_proj"), frame.hidden, values, false),
        ..shape.layer(frame, &prefix, inputs)
    }
}

/// The attention of the layer `PREFIX`: all its queries are normed at once, and all its keys.
fn attention(
    frame: &Frame<'_>,
    heads: Heads,
    prefix: &str,
    rotation: &Option<Rope>,
    bias: bool,
) -> Attention {
    let prefix = format!("{prefix}.self_attn");
    let norm = |name: &str, heads_of: usize| {
        Norm::new(&format!("{prefix}.{name}"), heads_of * heads.head_dim, frame.eps)
    };
    let qk_norm = Some(QkNorm {
        q: norm("q_norm", heads.heads),
        k: norm("k_norm", heads.kv_heads),
        per_head: false,
    });
    let plain = heads.attention(&prefix, frame.hidden, (bias, bias), rotation.clone());
    Attention { qk_norm, ..plain }
}

#[cfg(test)]
#[path = "olmo_hybrid_tests.rs"]
mod tests;
