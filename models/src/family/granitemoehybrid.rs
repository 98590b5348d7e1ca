//! Granite 4 (IBM, 2025): layers of Mamba-2 or attention, each followed by experts and a shared
//! expert, or by the shared expert alone.

use serde_json::Value;

use super::Family;
use super::granite::Factors;
use super::mamba2::Mamba2Shape;
use super::mlx::{NamedField, Root, present};
use crate::experts::{CountDefaults, Counts, fused_experts};
use crate::frame::{Frame, FrameDefaults, MODEL};
use crate::rope::{RopeDefaults, rope};
use crate::transformer::{HeadDefaults, Heads};
use crate::{Activation, Config, Dense, Linear, Matrix, Mixer, ModelError, ModelSpec, Moe, Router};

const EXPERTS: CountDefaults = CountDefaults { experts: 8, top_k: 2 };

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
    /// Counts and inner width of the other experts, if there are any.
    experts: Option<(Counts, usize)>,
}

impl FeedForward {
    fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        let experts = match Counts::any(frame, EXPERTS)? {
            true => {
                let counts = Counts::read(frame, frame.layers, EXPERTS)?;
                let inner = frame.inner("intermediate_size", 11008)?;
                counts.check_stacks([frame.hidden, inner])?;
                Some((counts, inner))
            }
            false => None,
        };
        Ok(Self {
            activation: frame.activation()?,
            shared: frame.inner("shared_intermediate_size", 1024)?,
            experts,
        })
    }

    fn mixer(&self, frame: &Frame<'_>, prefix: &str) -> Mixer {
        let Some((counts, inner)) = self.experts else {
            return Mixer::Dense(self.shared(frame, prefix));
        };
        let shared = self.shared(frame, prefix);
        let prefix = format!("{prefix}.block_sparse_moe");
        let names = ["input_linear", "output_linear"].map(|n| format!("{prefix}.{n}.weight"));
        let names = names.each_ref().map(String::as_str);
        let sizes = [frame.hidden, inner];
        let experts = fused_experts(names, counts.experts, sizes, self.activation);
        let router = format!("{prefix}.router.layer");
        let router = Linear::new(&router, counts.experts, frame.hidden, false);
        Mixer::Moe(Moe {
            // The reference takes the softmax over the chosen logits alone, which is the same.
            router: Router::softmax(router, counts.top_k, true),
            experts,
            shared: Some(shared),
            shared_gate: None,
        })
    }

    /// The expert that every token uses.
    fn shared(&self, frame: &Frame<'_>, prefix: &str) -> Dense {
        let (hidden, inner) = (frame.hidden, self.shared);
        let prefix = format!("{prefix}.shared_mlp");
        let gate_up = Matrix::whole(format!("{prefix}.input_linear.weight"), 2 * inner, hidden);
        Dense {
            gate: Some(gate_up.rows(0, inner).into()),
            up: gate_up.rows(inner, inner).into(),
            down: Linear::new(&format!("{prefix}.output_linear"), hidden, inner, false),
            activation: self.activation,
            adapter: None,
            out: None,
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
