//! Nemotron-H (NVIDIA, "Nemotron-H: A Family of Accurate and Efficient Hybrid Mamba-Transformer Models", 2025) and Nemotron 3: each
//! layer is one mixer, of Mamba-2, attention without positions, an ungated feed-forward network or ungated experts.

use serde_json::Value;

use super::Family;
use super::mamba2::{Mamba2Shape, dt_limit_from};
use super::mlx::{NamedField, Root, present};
use crate::config::{Fields, MAX_POSITIONS};
use crate::experts::{CountDefaults, Counts, Grouping, separate_plain_experts};
use crate::frame::{BACKBONE, Frame, FrameDefaults, limit, product};
use crate::transformer::{HeadDefaults, Heads};
use crate::{
    Activation, Config, Dense, GroupRank, Latent, Linear, Mixer, ModelError, ModelSpec, Moe,
    Router, Score, TensorSpec,
};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "nemotron_h",
    class: "NemotronHForCausalLM",
    spec,
    in_mlx: true,
    older_fields,
    unfold: None,
};

/// What a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mamba,
    Attention,
    Dense,
    Experts,
}

impl Kind {
    /// A letter of `hybrid_override_pattern`.
    fn of_letter(letter: char) -> Option<Self> {
        match letter {
            'M' => Some(Self::Mamba),
            '*' => Some(Self::Attention),
            '-' => Some(Self::Dense),
            'E' => Some(Self::Experts),
            _ => None,
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Mamba => 'M',
            Self::Attention => '*',
            Self::Dense => '-',
            Self::Experts => 'E',
        }
    }

    /// A name in `layers_block_type`, of any version.
    fn of_name(name: &str) -> Option<Self> {
        match name {
            "linear_attention" | "mamba" => Some(Self::Mamba),
            "full_attention" | "attention" => Some(Self::Attention),
            "mlp" => Some(Self::Dense),
            "moe" => Some(Self::Experts),
            _ => None,
        }
    }
}

/// The fields that list the kinds of layers by name, in the order in which they count.
const NAMES: [&str; 2] = ["layers_block_type", "layer_types"];
/// The field that has them as letters.
const PATTERN: &str = "hybrid_override_pattern";

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let mut frame = Frame::read(
        config,
        BACKBONE,
        FrameDefaults { hidden: 4096, vocab: 131_072, layers: 4, eps: 1e-5, tied: false },
    )?;
    // The reference ties nothing, whatever the config says.
    frame.untie();
    frame.refuse_window()?;
    let fields = &frame.fields;
    let kinds = kinds(fields)?;
    let count = |kind: Kind| kinds.iter().filter(|k| **k == kind).count();

    // Fields of a kind of layer that the model does not have may hold anything.
    let mamba = if count(Kind::Mamba) > 0 { Some(mamba(&frame)?) } else { None };
    let attention = if count(Kind::Attention) > 0 {
        let defaults = HeadDefaults { heads: 32, kv_heads: Some(8), head_dim: Some(128) };
        Some(Heads::read(&frame, defaults)?)
    } else {
        None
    };
    let activation = frame.activation_of("mlp_hidden_act", "relu2")?;
    let bias = fields.bool_or("mlp_bias", false)?;
    let inner = frame.inner("intermediate_size", 21504)?;
    let experts = match count(Kind::Experts) {
        0 => None,
        layers => Some(Experts::read(&frame, layers, bias)?),
    };

    let mut blocks = Vec::new();
    for (layer, kind) in kinds.iter().enumerate() {
        let prefix = format!("backbone.layers.{layer}");
        let mixer = format!("{prefix}.mixer");
        let mixer = match kind {
            Kind::Mamba => mamba.as_ref().map(|mamba| mamba.mixer(&mixer)),
            Kind::Attention => attention.map(|heads| {
                Mixer::Attention(heads.attention(&mixer, frame.hidden, (false, false), None))
            }),
            Kind::Dense => {
                Some(Mixer::Dense(plain(&mixer, [frame.hidden, inner], activation, bias)))
            }
            Kind::Experts => {
                experts.as_ref().map(|experts| experts.mixer(&mixer, frame.hidden, activation))
            }
        };
        blocks.extend(mixer.map(|mixer| frame.block(layer, &format!("{prefix}.norm"), mixer)));
    }
    let mut model = frame.model("nemotron_h", blocks)?;
    model.max_positions = fields.size("max_position_embeddings", 1, MAX_POSITIONS)?;
    // Layers that predict further tokens.
    model.ignored.push("mtp.*".into());
    Ok(model)
}

/// The kinds of the layers: named, else as letters; their number is what counts.
fn kinds(fields: &Fields<'_>) -> Result<Vec<Kind>, ModelError> {
    let bounded = |key: &str, count: usize| match count {
        1..=limit::LAYERS => Ok(()),
        _ => Err(ModelError::OutOfRange {
            field: fields.path(key),
            value: format!("{count} layers"),
            expected: format!("1 to {} layers", limit::LAYERS),
        }),
    };
    let unknown = |key: &str, layer: usize, found: String, known: &str| ModelError::Unsupported {
        field: format!("{}[{layer}]", fields.path(key)),
        value: format!("{:?}", crate::config::shorten(&found)),
        supported: format!("supported: {known}"),
    };
    if let Some(key) = NAMES.iter().find(|key| fields.get(key).is_some()) {
        let names = fields.strings(key)?.unwrap_or_default();
        bounded(key, names.len())?;
        let known = "linear_attention (mamba), full_attention (attention), mlp, moe";
        let kinds = names.iter().enumerate().map(|(layer, name)| {
            Kind::of_name(name).ok_or_else(|| unknown(key, layer, (*name).into(), known))
        });
        return kinds.collect();
    }
    let Some(pattern) = fields.str(PATTERN)? else {
        return Ok(vec![Kind::Mamba, Kind::Experts, Kind::Attention, Kind::Dense]);
    };
    bounded(PATTERN, pattern.chars().count())?;
    let kinds = pattern.chars().enumerate().map(|(layer, letter)| {
        let known = "M (Mamba-2), * (attention), - (feed-forward), E (experts)";
        Kind::of_letter(letter).ok_or_else(|| unknown(PATTERN, layer, letter.into(), known))
    });
    kinds.collect()
}

/// The Mamba-2 layers; some fields have an older name, which counts where both are there.
fn mamba(frame: &Frame<'_>) -> Result<Mamba2Shape, ModelError> {
    let fields = &frame.fields;
    let named = |older: &'static str, newer: &'static str| {
        if fields.get(older).is_some() { older } else { newer }
    };
    if fields.str("mamba_hidden_act")?.is_some_and(|act| !matches!(act, "silu" | "swish")) {
        return Err(fields.unsupported("mamba_hidden_act", "supported: silu"));
    }
    let heads = fields.size_or("mamba_num_heads", 128, 1, limit::HEADS)?;
    let head_dim = fields.size_or("mamba_head_dim", 64, 1, limit::ROWS)?;
    let low = fields.finite(named("mamba_dt_min", "time_step_min"))?.unwrap_or(0.001);
    let shape = Mamba2Shape {
        hidden: frame.hidden,
        inner: product("heads * head_dim of Mamba-2", &[heads, head_dim], limit::ROWS)?,
        heads,
        head_dim,
        groups: fields.size_or(named("mamba_n_groups", "n_groups"), 8, 1, limit::HEADS)?,
        state: fields.size_or("ssm_state_size", 128, 1, limit::STATE)?,
        kernel: fields.size_or(named("mamba_d_conv", "conv_kernel"), 4, 1, limit::KERNEL)?,
        in_bias: fields.bool_or("use_bias", false)?,
        out_bias: fields.bool_or("use_bias", false)?,
        conv_bias: fields.bool_or(named("mamba_conv_bias", "use_conv_bias"), true)?,
        // The reference reads no `time_step_limit`: it bounds steps from below alone.
        dt_limit: dt_limit_from(low),
        eps: frame.eps,
    };
    shape.check()?;
    Ok(shape)
}

/// The network `PREFIX.{up,down}_proj`, without a gate.
fn plain(prefix: &str, [hidden, inner]: [usize; 2], activation: Activation, bias: bool) -> Dense {
    Dense {
        gate: None,
        up: Linear::new(&format!("{prefix}.up_proj"), inner, hidden, bias),
        down: Linear::new(&format!("{prefix}.down_proj"), hidden, inner, bias),
        activation,
        adapter: None,
        out: None,
    }
}

/// The fields of the experts.
struct Experts {
    counts: Counts,
    inner: usize,
    /// Width of the stream that the experts read, if that isn't the residual stream.
    latent: Option<usize>,
    /// Inner width of the expert that sees every token.
    shared: usize,
    grouping: Grouping,
    renormalize: bool,
    scale: f32,
    /// Whether what every token uses has biases: the shared expert, and the projections around the chosen ones.
    bias: bool,
}

impl Experts {
    fn read(frame: &Frame<'_>, layers: usize, bias: bool) -> Result<Self, ModelError> {
        let fields = &frame.fields;
        let counts = Counts::read(frame, layers, CountDefaults { experts: 8, top_k: 2 })?;
        let inner = frame.inner("moe_intermediate_size", 7688)?;
        let latent = fields.size("moe_latent_size", 1, limit::WIDTH)?;
        counts.check_stacks([latent.unwrap_or(frame.hidden), inner])?;
        Ok(Self {
            counts,
            inner,
            latent,
            shared: frame.inner("moe_shared_expert_intermediate_size", 7688)?,
            grouping: Grouping::read(fields, counts, GroupRank::SumOfTwoLargest)?,
            renormalize: fields.bool_or("norm_topk_prob", true)?,
            scale: fields.finite("routed_scaling_factor")?.unwrap_or(1.0) as f32,
            bias,
        })
    }

    fn mixer(&self, prefix: &str, hidden: usize, activation: Activation) -> Mixer {
        let Counts { experts, top_k } = self.counts;
        let gate = format!("{prefix}.gate");
        let shared = format!("{prefix}.shared_experts");
        let names = ["up_proj", "down_proj"];
        let width = self.latent.unwrap_or(hidden);
        let latent = self.latent.map(|latent| Latent {
            down: Linear::new(&format!("{prefix}.fc1_latent_proj"), latent, hidden, self.bias),
            up: Linear::new(&format!("{prefix}.fc2_latent_proj"), hidden, latent, self.bias),
        });
        Mixer::Moe(Moe {
            router: Router {
                linear: Linear::new(&gate, experts, hidden, false),
                score: Score::Sigmoid,
                selection_bias: Some(TensorSpec::new(
                    format!("{gate}.e_score_correction_bias"),
                    [experts],
                )),
                groups: self.grouping.0,
                top_k,
                renormalize: self.renormalize,
                epsilon: 1e-20,
                scale: self.scale,
            },
            experts: separate_plain_experts(
                prefix,
                experts,
                names,
                [width, self.inner],
                activation,
            ),
            expert_norm: None,
            latent,
            shared: Some(plain(&shared, [hidden, self.shared], activation, self.bias)),
            shared_gate: None,
        })
    }
}

/// mlx-lm requires the pattern of letters and the number of layers.
fn older_fields(root: &Root) -> Vec<NamedField> {
    let kinds = NAMES.iter().find_map(|key| present(root, key)?.as_array());
    let Some(kinds) = kinds.filter(|_| present(root, PATTERN).is_none()) else {
        return Vec::new();
    };
    let letters: Option<String> =
        kinds.iter().map(|kind| kind.as_str().and_then(Kind::of_name).map(Kind::letter)).collect();
    let count = Value::from(kinds.len());
    let pattern = letters.map(|letters| (PATTERN, Value::from(letters)));
    pattern.into_iter().chain([("num_hidden_layers", count)]).collect()
}

#[cfg(test)]
#[path = "nemotron_h_tests.rs"]
mod tests;
