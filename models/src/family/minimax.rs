//! MiniMax-Text-01 (MiniMax, "MiniMax-01: Scaling Foundation Models with Lightning Attention", arXiv:2501.08313, 2025): layers of
//! linear or softmax attention, each followed by experts. The residual stream is normed on its way: branches are added to what they
//! read.
//!
//! The published checkpoints (`minimax_text_01`, `minimax_m1`) came with code of their own. [`Code`] is what it and the class of
//! `transformers` compute differently.

use super::{Family, Spelling};
use crate::config::Fields;
use crate::experts::{CountDefaults, Counts, separate_experts};
use crate::frame::{Frame, FrameDefaults, MODEL, limit, product};
use crate::rope::{RopeDefaults, rope};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{
    Attention, Block, Config, Linear, LinearAttention, Mixer, ModelError, ModelSpec, Moe, Norm,
    Residual, Rope, Router,
};

const DEFAULTS: TransformerDefaults = TransformerDefaults {
    frame: FrameDefaults { hidden: 4096, vocab: 32000, layers: 32, eps: 1e-5, tied: false },
    heads: HeadDefaults { heads: 32, kv_heads: Some(8), head_dim: None },
    theta: 1e6,
    max_positions: 4096 * 32,
};

const EXPERTS: CountDefaults = CountDefaults { experts: 8, top_k: 2 };

/// Epsilon of the norm before the output gate, which no field sets.
const GATE_NORM_EPS: f32 = 1e-6;

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "minimax",
    class: "MiniMaxForCausalLM",
    spec: |config| spec(config, &TRANSFORMERS),
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The checkpoint as MiniMax published it.
pub(super) const TEXT_01: Spelling = Spelling {
    model_type: "minimax_text_01",
    class: "MiniMaxText01ForCausalLM",
    spec: |config| spec(config, &OWN),
};

/// MiniMax-M1, the same model trained to reason (MiniMax, arXiv:2506.13585, 2025).
pub(super) const M1: Spelling = Spelling {
    model_type: "minimax_m1",
    class: "MiniMaxM1ForCausalLM",
    spec: |config| spec(config, &OWN),
};

/// What the code that a config is written for computes in its own way.
struct Code {
    /// Whether branches are added to the normed stream, if `postnorm` doesn't say.
    postnorm: bool,
    /// Whether `postnorm` may be false.
    any_norm: bool,
    /// Whether `rotary_dim` tells how many elements of a head are rotated.
    rotary_dim: bool,
    /// Whether `shared_intermediate_size` means an expert that every token uses.
    shared_expert: bool,
    /// Kinds of layers if no field lists them: whether each is linear attention. None: they must be listed.
    layers: Option<fn(usize) -> bool>,
    /// Logarithms of the decays of the heads of a layer: heads, layer, layers.
    log_decays: fn(usize, usize, usize) -> Vec<f32>,
}

/// The class of `transformers`.
const TRANSFORMERS: Code = Code {
    postnorm: true,
    any_norm: false,
    rotary_dim: false,
    shared_expert: false,
    layers: Some(|layer| layer % 2 == 1),
    log_decays,
};

/// MiniMax's own code.
const OWN: Code = Code {
    postnorm: false,
    any_norm: true,
    rotary_dim: true,
    shared_expert: true,
    layers: None,
    log_decays: own_log_decays,
};

/// The model that `config` describes, which is written for `code`.
fn spec(config: &Config, code: &Code) -> Result<ModelSpec, ModelError> {
    let mut model = Transformer::read(config, MODEL, DEFAULTS)?;
    if code.rotary_dim {
        let rope = partial_rope(&model)?;
        model = model.with_rope(rope);
    }
    let (frame, fields) = (&model.frame, &model.frame.fields);
    if code.shared_expert {
        refuse_shared_expert(fields)?;
    }
    let inner = frame.inner("intermediate_size", 14336)?;
    let counts = Counts::read(frame, frame.layers, EXPERTS)?;
    counts.check_stacks([frame.hidden, inner])?;
    product(
        "3 * num_attention_heads * head_dim",
        &[3, model.heads.heads, model.heads.head_dim],
        limit::ROWS,
    )?;
    let window = frame.window(None)?;
    let normed = fields.bool_or("postnorm", code.postnorm)?;
    if !normed && !code.any_norm {
        return Err(fields.unsupported("postnorm", "branches are added to the normed stream"));
    }
    let [full, linear, mlp] = [FULL, LINEAR, MLP].map(|names| Factors::read(fields, names, normed));
    let (full, linear, mlp) = (full?, linear?, mlp?);

    let mut blocks = Vec::new();
    for (layer, is_linear) in layer_types(frame, code)?.into_iter().enumerate() {
        let prefix = format!("model.layers.{layer}");
        let (mixer, factors) = if is_linear {
            let log_decays = (code.log_decays)(model.heads.heads, layer, frame.layers);
            (Mixer::LinearAttention(lightning(&model, log_decays, &prefix)), linear)
        } else {
            let attention = model.attention(&prefix, (false, false));
            (Mixer::Attention(Attention { window, ..attention }), full)
        };
        let norm = format!("{prefix}.input_layernorm");
        blocks.push(factors.apply(frame.block(layer, &norm, mixer)));
        let norm = format!("{prefix}.post_attention_layernorm");
        let moe = Mixer::Moe(experts(&model, counts, inner, &prefix));
        blocks.push(mlp.apply(frame.block(layer, &norm, moe)));
    }
    let mut spec = frame.model("minimax", blocks)?;
    // The decays, which follow from the config, as tables of the reference's own computation.
    for table in ["slope_rate", "query_decay", "key_decay", "diagonal_decay"] {
        spec.ignored.push(format!("*.self_attn.{table}"));
    }
    Ok(spec)
}

/// The rotation of the first `rotary_dim` elements of a head; of all of them by default.
fn partial_rope(model: &Transformer<'_>) -> Result<Rope, ModelError> {
    const KEY: &str = "rotary_dim";
    let (fields, head_dim) = (&model.frame.fields, model.heads.head_dim);
    fields.refuse("rope_scaling", "this code has none")?;
    let rotated = fields.size_or(KEY, head_dim, 2, limit::HEAD_DIM)?;
    if rotated > head_dim || !rotated.is_multiple_of(2) {
        return Err(ModelError::OutOfRange {
            field: fields.path(KEY),
            value: rotated.to_string(),
            expected: format!("an even number, at most the width of a head, {head_dim}"),
        });
    }
    let TransformerDefaults { theta, max_positions, .. } = DEFAULTS;
    rope(fields, rotated, RopeDefaults { theta, partial: None, max_positions })
}

/// Refuses an expert that every token uses, whose share a gate decides: no published checkpoint has one.
fn refuse_shared_expert(fields: &Fields<'_>) -> Result<(), ModelError> {
    // One size, or one for each layer.
    const KEY: &str = "shared_intermediate_size";
    let none = |value: &serde_json::Value| value.as_u64() == Some(0);
    match fields.get(KEY) {
        Some(value)
            if !none(value) && !value.as_array().is_some_and(|all| all.iter().all(none)) =>
        {
            Err(fields.unsupported(KEY, "supported: 0, no expert that every token uses"))
        }
        _ => Ok(()),
    }
}

/// Whether each layer is linear attention: by `layer_types`, by `attn_type_list` of MiniMax's own code, else as `code` has it.
fn layer_types(frame: &Frame<'_>, code: &Code) -> Result<Vec<bool>, ModelError> {
    const OLDER: &str = "attn_type_list";
    if let Some(types) = frame.layer_types(&["layer_types"])? {
        let kinds = types.iter().enumerate().map(|(layer, &name)| match name {
            "linear_attention" => Ok(true),
            "full_attention" => Ok(false),
            _ => Err(frame.unknown_layer(layer, name, &["linear_attention", "full_attention"])),
        });
        return kinds.collect();
    }
    let Some(kinds) = frame.fields.sizes(OLDER, 0, 1)? else {
        let Some(is_linear) = code.layers else {
            return Err(ModelError::Missing {
                field: frame.fields.path(OLDER),
                expected: "the kind of each layer: 0 (linear attention) or 1 (softmax attention)",
            });
        };
        return Ok((0..frame.layers).map(is_linear).collect());
    };
    if kinds.len() != frame.layers {
        return Err(ModelError::WrongLength {
            field: frame.fields.path(OLDER),
            found: kinds.len(),
            expected: frame.layers,
            because: "num_hidden_layers",
        });
    }
    Ok(kinds.into_iter().map(|kind| kind == 0).collect())
}

/// The factors of a kind of block: `x = alpha * norm(x) + beta * branch(norm(x))`, or with `x` itself in place of the first norm.
#[derive(Clone, Copy, Debug)]
struct Factors {
    residual: Residual,
    beta: f32,
}

/// The names of alpha and of beta, each as `transformers` has it and as MiniMax's own code does.
type FactorNames = [[&'static str; 2]; 2];

const FULL: FactorNames = [
    ["full_attn_alpha_factor", "layernorm_full_attention_alpha"],
    ["full_attn_beta_factor", "layernorm_full_attention_beta"],
];
const LINEAR: FactorNames = [
    ["linear_attn_alpha_factor", "layernorm_linear_attention_alpha"],
    ["linear_attn_beta_factor", "layernorm_linear_attention_beta"],
];
const MLP: FactorNames =
    [["mlp_alpha_factor", "layernorm_mlp_alpha"], ["mlp_beta_factor", "layernorm_mlp_beta"]];

impl Factors {
    fn read(
        fields: &Fields<'_>,
        [alpha, beta]: FactorNames,
        normed: bool,
    ) -> Result<Self, ModelError> {
        let read = |[newer, older]: [&str; 2]| -> Result<f32, ModelError> {
            let found = match fields.finite(newer)? {
                Some(factor) => Some(factor),
                None => fields.finite(older)?,
            };
            Ok(found.unwrap_or(1.0) as f32)
        };
        let residual = match (normed, read(alpha)?) {
            (true, scale) => Residual::Normed { scale },
            (false, 1.0) => Residual::Stream,
            (false, _) => {
                let key = alpha.into_iter().find(|key| fields.get(key).is_some());
                let key = key.unwrap_or(alpha[0]);
                return Err(fields.unsupported(key, "without postnorm: 1"));
            }
        };
        Ok(Self { residual, beta: read(beta)? })
    }

    fn apply(self, block: Block) -> Block {
        Block { residual: self.residual, residual_scale: self.beta, ..block }
    }
}

/// The lightning attention of a layer.
fn lightning(model: &Transformer<'_>, log_decays: Vec<f32>, prefix: &str) -> LinearAttention {
    let (hidden, heads, dim) = (model.frame.hidden, model.heads.heads, model.heads.head_dim);
    let prefix = format!("{prefix}.self_attn");
    let linear = |name: &str, outputs, inputs| {
        Linear::new(&format!("{prefix}.{name}"), outputs, inputs, false)
    };
    LinearAttention {
        qkv: linear("qkv_proj", 3 * heads * dim, hidden),
        activation: model.activation,
        gate: linear("output_gate", heads * dim, hidden),
        norm: Norm::new(&format!("{prefix}.norm"), heads * dim, GATE_NORM_EPS),
        out_proj: linear("out_proj", hidden, heads * dim),
        log_decays,
        key_dim: dim,
        value_dim: dim,
        scale: 1.0,
    }
}

/// `-2^(-8 (h + 1) / heads)` for head `h`, less from layer to layer (MiniMax-01, section 2.2; the slopes are those of Press et al.,
/// "Train Short, Test Long", 2022), in the order and precision of the reference.
fn log_decays(heads: usize, layer: usize, layers: usize) -> Vec<f32> {
    let base = (1.0 / 2f64.powf(8.0 / heads as f64)) as f32;
    let factor = 1.0 - layer as f64 / ((layers - 1) as f64 + 1e-5) + 1e-5;
    // The nearest to the true power of the base in single precision, on every platform.
    let rate = |head: usize| f64::from(base).powf((head + 1) as f64) as f32;
    (0..heads).map(|head| -(rate(head) * factor as f32)).collect()
}

/// The same of MiniMax's own code: where the heads are no power of two, those beyond the last one have every second slope of twice as
/// many heads, and the layers count up to the last one exactly.
fn own_log_decays(heads: usize, layer: usize, layers: usize) -> Vec<f32> {
    let slopes = |count: usize| (1..=count).map(move |i| 2f64.powf(-8.0 * i as f64 / count as f64));
    let power = 1 << heads.max(1).ilog2();
    let factor = 1.0 - layer as f64 / layers.saturating_sub(1).max(1) as f64 + 1e-5;
    let all = slopes(power).chain(slopes(2 * power).step_by(2)).take(heads);
    all.map(|slope| -(slope as f32 * factor as f32)).collect()
}

/// The experts of a layer.
fn experts(model: &Transformer<'_>, counts: Counts, inner: usize, prefix: &str) -> Moe {
    let (hidden, prefix) = (model.frame.hidden, format!("{prefix}.block_sparse_moe"));
    let (names, sizes) = (["w1", "w3", "w2"], [hidden, inner]);
    let router = Linear::new(&format!("{prefix}.gate"), counts.experts, hidden, false);
    Moe {
        router: Router::softmax(router, counts.top_k, true),
        experts: separate_experts(&prefix, counts.experts, names, sizes, model.activation),
        expert_norm: None,
        latent: None,
        shared: None,
        shared_gate: None,
    }
}

#[cfg(test)]
#[path = "minimax_tests.rs"]
mod tests;
