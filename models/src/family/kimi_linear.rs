//! Kimi Linear (Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", arXiv:2510.26692, 2025): three layers of
//! Kimi Delta Attention to one of latent attention without positions, each followed by experts, the first by a dense network.

use serde_json::{Value, json};

use super::Family;
use super::mlx::{NamedField, Root, present};
use crate::config::{Fields, MAX_POSITIONS};
use crate::experts::{CountDefaults, Counts, Grouping, named_size, separate_experts};
use crate::frame::{Frame, FrameDefaults, MODEL, limit, product};
use crate::latent::LatentShape;
use crate::{
    Activation, Config, Conv, DeltaInputs, DeltaProjection, DeltaProjections, GateActivation,
    GatedDelta, GroupRank, Linear, Mixer, ModelError, ModelSpec, Moe, Norm, Router, Score,
    TensorSpec,
};

const FRAME: FrameDefaults =
    FrameDefaults { hidden: 2304, vocab: 163_840, layers: 27, eps: 1e-5, tied: false };

const LATENT: LatentShape = LatentShape {
    heads: 32,
    rank: 512,
    query_rank: None,
    nope_dim: 128,
    rope_dim: 64,
    value_dim: 128,
    bias: false,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "kimi_linear",
    class: "KimiLinearForCausalLM",
    spec,
    in_mlx: true,
    older_fields,
    unfold: None,
};

/// The object with the fields of Kimi Delta Attention.
const LINEAR: &str = "linear_attn_config";
/// In it, the numbers of the layers of each kind, from 1.
const FULL_LAYERS: &str = "full_attn_layers";
const KDA_LAYERS: &str = "kda_layers";
/// The kinds of feed-forward networks, and the number of the first ones that are dense.
const MLP_TYPES: &str = "mlp_layer_types";
const FIRST_DENSE: &str = "first_k_dense_replace";

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(config, MODEL, FRAME)?;
    frame.refuse_window()?;
    let fields = &frame.fields;
    if !fields.bool_or("mla_use_nope", true)? {
        let supported = "supported: latent attention without positions";
        return Err(fields.unsupported("mla_use_nope", supported));
    }
    let is_attention = layers(&frame)?;
    let count = |kind: bool| is_attention.iter().filter(|&&is| is == kind).count();
    // Fields of a kind of layer that the model does not have may hold anything.
    let attention = match count(true) {
        0 => None,
        layers => Some(LATENT.read(fields, layers)?),
    };
    let delta = if count(false) > 0 { Some(Delta::read(&frame)?) } else { None };
    let activation = frame.activation()?;
    let has_experts = sparse_layers(&frame)?;
    let dense = frame.inner("intermediate_size", 9216)?;
    let experts = match has_experts.iter().filter(|&&has| has).count() {
        0 => None,
        layers => Some(Experts::read(&frame, layers, activation)?),
    };

    let mut blocks = Vec::new();
    for (layer, (is_attention, has_experts)) in
        is_attention.into_iter().zip(has_experts).enumerate()
    {
        let prefix = format!("model.layers.{layer}");
        let own = format!("{prefix}.self_attn");
        let mixer = match (&attention, &delta) {
            (Some(attention), _) if is_attention => {
                Some(Mixer::LatentAttention(attention.layer(&frame, &own, None)))
            }
            (_, delta) => delta.as_ref().map(|delta| Mixer::GatedDelta(delta.layer(&frame, &own))),
        };
        let norm = format!("{prefix}.input_layernorm");
        blocks.extend(mixer.map(|mixer| frame.block(layer, &norm, mixer)));
        let mixer = match experts.as_ref().filter(|_| has_experts) {
            Some(experts) => Mixer::Moe(experts.layer(&frame, &prefix)),
            None => Mixer::Dense(frame.dense(&format!("{prefix}.mlp"), dense, activation, false)),
        };
        blocks.push(frame.block(layer, &format!("{prefix}.post_attention_layernorm"), mixer));
    }
    let mut model = frame.model("kimi_linear", blocks)?;
    let positions = ["model_max_length", "max_position_embeddings"];
    model.max_positions = named_size(fields, &positions, 1, MAX_POSITIONS)?.map(|(_, n)| n);
    // Layers that predict further tokens.
    model.ignored.push("model.mtp*".into());
    Ok(model)
}

/// Whether each layer is latent attention: by `layer_types`, by the lists of Kimi's own code, else every fourth but the first.
fn layers(frame: &Frame<'_>) -> Result<Vec<bool>, ModelError> {
    let listed = match frame.fields.object(LINEAR)? {
        Some(fields) => listed_layers(frame, &fields)?,
        None => None,
    };
    let Some(types) = frame.layer_types(&["layer_types"])? else {
        let default = |layer: usize| layer > 0 && layer.is_multiple_of(4);
        return Ok(listed.unwrap_or_else(|| (0..frame.layers).map(default).collect()));
    };
    let kinds = types.iter().enumerate().map(|(layer, name)| match *name {
        "full_attention" => Ok(true),
        "linear_attention" => Ok(false),
        _ => Err(frame.unknown_layer(layer, name, &["linear_attention", "full_attention"])),
    });
    let kinds: Vec<bool> = kinds.collect::<Result<_, _>>()?;
    match listed.is_some_and(|listed| listed != kinds) {
        true => Err(frame.fields.unsupported("layer_types", format!("{LINEAR} has other kinds"))),
        false => Ok(kinds),
    }
}

/// The same by the lists of layers of each kind, if the config has them.
fn listed_layers(frame: &Frame<'_>, fields: &Fields<'_>) -> Result<Option<Vec<bool>>, ModelError> {
    let lists = [(FULL_LAYERS, true), (KDA_LAYERS, false)];
    let read = |key| fields.sizes(key, 1, frame.layers);
    let lists = match [read(FULL_LAYERS)?, read(KDA_LAYERS)?] {
        [None, None] => return Ok(None),
        found => lists.into_iter().zip(found),
    };
    let mut kinds = vec![None; frame.layers];
    for ((key, kind), numbers) in lists {
        let Some(numbers) = numbers else {
            let expected = "the numbers of its layers, from 1, because the other kind's are listed";
            return Err(ModelError::Missing { field: fields.path(key), expected });
        };
        for number in numbers {
            let Some(held) = kinds.get_mut(number - 1) else { continue };
            if held.replace(kind).is_some() {
                let supported = format!("layer {number} must be listed once");
                return Err(fields.unsupported(key, supported));
            }
        }
    }
    let all: Option<Vec<bool>> = kinds.iter().copied().collect();
    all.map(Some).ok_or_else(|| {
        let missing = kinds.iter().position(Option::is_none).unwrap_or_default() + 1;
        fields.unsupported(KDA_LAYERS, format!("layer {missing} must be in it or in {FULL_LAYERS}"))
    })
}

/// Whether each layer has experts.
fn sparse_layers(frame: &Frame<'_>) -> Result<Vec<bool>, ModelError> {
    let fields = &frame.fields;
    if fields.size_or("moe_layer_freq", 1, 0, usize::MAX)? != 1 {
        let supported = "supported: 1, experts in all layers after the first dense ones";
        return Err(fields.unsupported("moe_layer_freq", supported));
    }
    let first = fields.size_or(FIRST_DENSE, 1, 0, usize::MAX)?;
    let Some(types) = frame.layer_types(&[MLP_TYPES])? else {
        return Ok((0..frame.layers).map(|layer| layer >= first).collect());
    };
    let kinds = types.iter().enumerate().map(|(layer, name)| match *name {
        "sparse" => Ok(true),
        "dense" => Ok(false),
        _ => Err(ModelError::Unsupported {
            field: format!("{}[{layer}]", fields.path(MLP_TYPES)),
            value: format!("{:?}", crate::config::shorten(name)),
            supported: "supported: dense, sparse".into(),
        }),
    });
    kinds.collect()
}

/// What all layers of Kimi Delta Attention share. Keys and values have the same heads.
struct Delta {
    heads: usize,
    head_dim: usize,
    kernel: usize,
}

impl Delta {
    /// Reads `linear_attn_config`, and what it lacks from the fields of `transformers` 5.
    fn read(frame: &Frame<'_>) -> Result<Self, ModelError> {
        frame.require_silu()?;
        let own = frame.fields.object(LINEAR)?;
        let size = |inner: &str, outer: &str, default, max| -> Result<usize, ModelError> {
            let found = match &own {
                Some(own) => own.size(inner, 1, max)?,
                None => None,
            };
            match found {
                Some(found) => Ok(found),
                None => frame.fields.size_or(outer, default, 1, max),
            }
        };
        let delta = Self {
            heads: size("num_heads", "linear_num_heads", 32, limit::HEADS)?,
            head_dim: size("head_dim", "linear_head_dim", 128, limit::STATE)?,
            kernel: size("short_conv_kernel_size", "linear_conv_kernel_dim", 4, limit::KERNEL)?,
        };
        let heads = [delta.heads, delta.head_dim];
        product("heads * head_dim of linear attention", &heads, limit::ROWS / 8)?;
        Ok(delta)
    }

    fn layer(&self, frame: &Frame<'_>, prefix: &str) -> GatedDelta {
        let Self { heads, head_dim, kernel } = *self;
        let (hidden, width) = (frame.hidden, heads * head_dim);
        let linear =
            |name: &str, rows, cols| Linear::new(&format!("{prefix}.{name}"), rows, cols, false);
        let low_rank = |down: &str, up: &str| DeltaProjection::LowRank {
            down: linear(down, head_dim, hidden),
            up: linear(up, width, head_dim),
        };
        let conv = |name: &str| Conv::new(&format!("{prefix}.{name}"), width, kernel, false);
        GatedDelta {
            inputs: DeltaInputs::Separate(Box::new(DeltaProjections {
                q: linear("q_proj", width, hidden),
                k: linear("k_proj", width, hidden),
                v: linear("v_proj", width, hidden),
                gate: low_rank("g_a_proj", "g_b_proj"),
                decay: low_rank("f_a_proj", "f_b_proj"),
                beta: linear("b_proj", heads, hidden),
            })),
            convs: ["q_conv1d", "k_conv1d", "v_conv1d"].map(conv).to_vec(),
            beta_scale: 1.0,
            per_channel: true,
            a_log: TensorSpec::new(format!("{prefix}.A_log"), [1, 1, heads, 1]),
            dt_bias: TensorSpec::new(format!("{prefix}.dt_bias"), [width]),
            key_heads: heads,
            value_heads: heads,
            key_dim: head_dim,
            value_dim: head_dim,
            norm: Norm::new(&format!("{prefix}.o_norm"), head_dim, frame.eps),
            gate_activation: GateActivation::Sigmoid,
            out_proj: linear("o_proj", hidden, width),
        }
    }
}

/// The experts of a layer.
struct Experts {
    counts: Counts,
    inner: usize,
    /// Inner width of the expert that sees every token; 0 for none.
    shared: usize,
    grouping: Grouping,
    renormalize: bool,
    scale: f32,
    activation: Activation,
}

impl Experts {
    fn read(frame: &Frame<'_>, layers: usize, activation: Activation) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        const SCORE: &str = "moe_router_activation_func";
        const GROUPED: &str = "use_grouped_topk";
        if fields.str(SCORE)?.is_some_and(|score| score != "sigmoid") {
            return Err(fields.unsupported(SCORE, "supported: sigmoid"));
        }
        let counts = Counts::read(frame, layers, CountDefaults { experts: 256, top_k: 8 })?;
        let inner = frame.inner("moe_intermediate_size", 1024)?;
        counts.check_stacks([frame.hidden, inner])?;
        let grouping = Grouping::read(fields, counts, GroupRank::SumOfTwoLargest)?;
        if grouping.0.is_some() && !fields.bool_or(GROUPED, true)? {
            return Err(fields.unsupported(GROUPED, "supported: true where experts have groups"));
        }
        let names = ["num_shared_experts", "n_shared_experts"];
        let shared = named_size(fields, &names, 0, limit::EXPERTS)?.map_or(1, |(_, count)| count);
        let renormalize = ["moe_renormalize", "norm_topk_prob"];
        let renormalize = renormalize.into_iter().find(|key| fields.get(key).is_some());
        Ok(Self {
            counts,
            inner,
            shared: product("shared experts * their width", &[shared, inner], limit::WIDTH)?,
            grouping,
            renormalize: renormalize.map_or(Ok(true), |key| fields.bool_or(key, true))?,
            scale: fields.finite("routed_scaling_factor")?.unwrap_or(2.446) as f32,
            activation,
        })
    }

    fn layer(&self, frame: &Frame<'_>, prefix: &str) -> Moe {
        let prefix = format!("{prefix}.block_sparse_moe");
        let (Counts { experts, top_k }, names) = (self.counts, ["w1", "w3", "w2"]);
        let bias = format!("{prefix}.gate.e_score_correction_bias");
        let shared =
            |inner| frame.dense(&format!("{prefix}.shared_experts"), inner, self.activation, false);
        Moe {
            router: Router {
                linear: Linear::new(&format!("{prefix}.gate"), experts, frame.hidden, false),
                score: Score::Sigmoid,
                selection_bias: Some(TensorSpec::new(bias, [experts])),
                groups: self.grouping.0,
                top_k,
                renormalize: self.renormalize,
                epsilon: 1e-20,
                scale: self.scale,
            },
            experts: separate_experts(
                &prefix,
                experts,
                names,
                [frame.hidden, self.inner],
                self.activation,
            ),
            shared: (self.shared > 0).then(|| shared(self.shared)),
            shared_gate: None,
            expert_norm: None,
            latent: None,
        }
    }
}

/// mlx-lm requires the lists of layers and a base of rotations, which it doesn't use, and reads the number of dense layers.
fn older_fields(root: &Root) -> Vec<NamedField> {
    let mut fields = Vec::new();
    let names = present(root, "layer_types").and_then(Value::as_array);
    if let Some(names) = names.filter(|_| present(root, LINEAR).is_none()) {
        let numbers = |kind: &str| -> Value {
            let all = names.iter().enumerate().filter(|(_, name)| *name == kind);
            all.map(|(layer, _)| layer + 1).collect()
        };
        let size = |key: &str, default: usize| {
            present(root, key).cloned().unwrap_or_else(|| default.into())
        };
        let own = json!({
            FULL_LAYERS: numbers("full_attention"),
            KDA_LAYERS: numbers("linear_attention"),
            "num_heads": size("linear_num_heads", 32),
            "head_dim": size("linear_head_dim", 128),
            "short_conv_kernel_size": size("linear_conv_kernel_dim", 4),
        });
        fields.push((LINEAR, own));
    }
    let names = present(root, MLP_TYPES).and_then(Value::as_array);
    if let Some(names) = names.filter(|_| present(root, FIRST_DENSE).is_none()) {
        let dense = names.iter().take_while(|name| *name == "dense").count();
        fields.push((FIRST_DENSE, dense.into()));
    }
    if present(root, "rope_theta").is_none() {
        fields.push(("rope_theta", 10000.0.into()));
    }
    fields
}

#[cfg(test)]
#[path = "kimi_linear_tests.rs"]
mod tests;
