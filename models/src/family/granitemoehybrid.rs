//! Granite 4 (IBM, 2025): layers of Mamba-2 or attention, each followed by experts and a shared
//! expert, or by the shared expert alone.

use serde_json::Value;

use super::Family;
use super::granite::Factors;
use super::granitemoe::{COUNTS, Experts, shared_expert};
use super::mamba2::Mamba2Shape;
use super::mlx::{NamedField, Root, present};
use crate::experts::Counts;
use crate::frame::{Frame, FrameDefaults, MODEL};
use crate::rope::{RopeDefaults, rope};
use crate::transformer::{HeadDefaults, Heads};
use crate::{Activation, Config, Mixer, ModelError, ModelSpec, Moe};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "granitemoehybrid",
    class: "GraniteMoeHybridForCausalLM",
    spec,
    in_mlx: true,
    older_fields,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(
        config,
        MODEL,
        FrameDefaults { hidden: 4096, vocab: 32000, layers: 32, eps: 1e-6, tied: false },
    )?;
    frame.refuse_window()?;
    let fields = &frame.fields;
    if fields.str("normalization_function")?.is_some_and(|name| name != "rmsnorm") {
        return Err(fields.unsupported("normalization_function", "supported: rmsnorm"));
    }
    let types = frame
        .layer_types(&["layer_types", "layers_block_type"])?
        .unwrap_or_else(|| vec!["linear_attention"; frame.layers]);

    // Ignore the fields of a kind of layer that the model does not have.
    let mamba = match types.contains(&"linear_attention") {
        true => Some(Mamba2Shape::hybrid(&frame)?),
        false => None,
    };
    let attention = match types.contains(&"full_attention") {
        true => Some(AttentionFields::read(&frame)?),
        false => None,
    };
    let feed_forward = FeedForward::read(&frame)?;

    let mut blocks = Vec::new();
    for (layer, name) in types.iter().enumerate() {
        let prefix = format!("model.layers.{layer}");
        let mixer = match (*name, &mamba, &attention) {
            ("linear_attention", Some(mamba), _) => mamba.mixer(&format!("{prefix}.mamba")),
            ("full_attention", _, Some(attention)) => attention.mixer(&frame, &prefix),
            _ => {
                let known = ["linear_attention (mamba)", "full_attention (attention)"];
                return Err(frame.unknown_layer(layer, name, &known));
            }
        };
        blocks.push(frame.block(layer, &format!("{prefix}.input_layernorm"), mixer));
        let norm = format!("{prefix}.post_attention_layernorm");
        blocks.push(frame.block(layer, &norm, feed_forward.mixer(&frame, &prefix)));
    }
    Ok(Factors::read(&frame)?.apply(frame.model("granitemoehybrid", blocks)?))
}

/// The fields of the attention layers.
struct AttentionFields {
    heads: Heads,
    /// None: no position encoding.
    rope: Option<crate::Rope>,
    bias: bool,
}

impl AttentionFields {
    fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let defaults = HeadDefaults { heads: 32, kv_heads: None, head_dim: None };
        let heads = Heads::read(frame, defaults)?;
        // In the reference every value but "rope" means none; hub checkpoints say "nope".
        let rope = match fields.str("position_embedding_type")? {
            Some("rope") => {
                let defaults = RopeDefaults { theta: 10000.0, partial: None, max_positions: 2048 };
                Some(rope(fields, heads.head_dim, defaults)?)
            }
            _ => None,
        };
        Ok(Self { heads, rope, bias: fields.bool_or("attention_bias", false)? })
    }

    fn mixer(&self, frame: &Frame<'_>, prefix: &str) -> Mixer {
        let (prefix, bias) = (format!("{prefix}.self_attn"), (self.bias, self.bias));
        Mixer::Attention(self.heads.attention(&prefix, frame.hidden, bias, self.rope.clone()))
    }
}

/// The fields of the feed-forward part of each layer.
struct FeedForward {
    activation: Activation,
    /// Inner width of the shared expert.
    shared: usize,
    /// The other experts, if there are any.
    experts: Option<Experts>,
}

impl FeedForward {
    fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        let experts = match Counts::any(frame, COUNTS)? {
            true => Some(Experts::read(frame)?),
            false => None,
        };
        Ok(Self {
            activation: frame.activation()?,
            shared: frame.inner("shared_intermediate_size", 1024)?,
            experts,
        })
    }

    fn mixer(&self, frame: &Frame<'_>, prefix: &str) -> Mixer {
        let shared = shared_expert(frame, prefix, self.shared, self.activation);
        match self.experts {
            Some(experts) => Mixer::Moe(Moe {
                shared: Some(shared),
                ..experts.moe(frame, prefix, self.activation)
            }),
            None => Mixer::Dense(shared),
        }
    }
}

/// Older names of layer kinds, and the width where mlx-lm looks for it.
fn older_fields(root: &Root) -> Vec<NamedField> {
    let mut fields = Vec::new();
    let types = present(root, "layer_types").and_then(Value::as_array);
    let newer = types.filter(|types| types.iter().any(|kind| older_kind(kind) != *kind));
    let types = newer.map(|types| types.iter().map(older_kind).collect::<Value>());
    fields.extend(types.map(|types| ("layer_types", types)));
    // In a model without experts, mlx-lm reads the width of the only feed-forward network from the
    // experts' field.
    let dense = present(root, "num_local_experts").is_some_and(|count| *count == 0);
    let width = present(root, "shared_intermediate_size").filter(|_| dense);
    let width = width.filter(|width| root.get("intermediate_size") != Some(*width));
    fields.extend(width.map(|width| ("intermediate_size", width.clone())));
    fields
}

fn older_kind(kind: &Value) -> Value {
    match kind.as_str() {
        Some("linear_attention") => "mamba".into(),
        Some("full_attention") => "attention".into(),
        _ => kind.clone(),
    }
}

#[cfg(test)]
#[path = "granitemoehybrid_tests.rs"]
mod tests;
