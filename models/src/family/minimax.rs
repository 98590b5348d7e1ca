//! MiniMax-Text-01 (MiniMax, "MiniMax-01: Scaling Foundation Models with Lightning Attention", arXiv:2501.08313, 2025): layers of
//! linear or softmax attention, each followed by experts. The residual stream is normed on its way: branches are added to what they
//! read.

use super::Family;
use crate::config::Fields;
use crate::experts::{CountDefaults, Counts, separate_experts};
use crate::frame::{Frame, FrameDefaults, MODEL, product};
use crate::transformer::{HeadDefaults, Transformer, TransformerDefaults};
use crate::{
    Attention, Block, Config, Linear, LinearAttention, Mixer, ModelError, ModelSpec, Moe, Norm,
    Residual, Router,
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
    spec,
    in_mlx: false,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let model = Transformer::read(config, MODEL, DEFAULTS)?;
    let (frame, fields) = (&model.frame, &model.frame.fields);
    let inner = frame.inner("intermediate_size", 14336)?;
    let counts = Counts::read(frame, frame.layers, EXPERTS)?;
    counts.check_stacks([frame.hidden, inner])?;
    product(
        "3 * num_attention_heads * head_dim",
        &[3, model.heads.heads, model.heads.head_dim],
        crate::frame::limit::ROWS,
    )?;
    let window = frame.window(None)?;
    if !fields.bool_or("postnorm", true)? {
        return Err(fields.unsupported("postnorm", "branches are added to the normed stream"));
    }
    let (full, linear) = (Factors::read(fields, FULL)?, Factors::read(fields, LINEAR)?);
    let mlp = Factors::read(fields, MLP)?;

    let mut blocks = Vec::new();
    for (layer, is_linear) in layer_types(frame)?.into_iter().enumerate() {
        let prefix = format!("model.layers.{layer}");
        let (mixer, factors) = if is_linear {
            (Mixer::LinearAttention(lightning(&model, layer, &prefix)), linear)
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

/// Whether each layer is linear attention: by `layer_types`, by `attn_type_list` of MiniMax's own code, else every second layer.
fn layer_types(frame: &Frame<'_>) -> Result<Vec<bool>, ModelError> {
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
        return Ok((0..frame.layers).map(|layer| layer % 2 == 1).collect());
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

/// The factors of a kind of block: `x = alpha * norm(x) + beta * branch(norm(x))`.
#[derive(Clone, Copy, Debug)]
struct Factors {
    alpha: f32,
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
    fn read(fields: &Fields<'_>, [alpha, beta]: FactorNames) -> Result<Self, ModelError> {
        let read = |[newer, older]: [&str; 2]| -> Result<f32, ModelError> {
            let found = match fields.finite(newer)? {
                Some(factor) => Some(factor),
                None => fields.finite(older)?,
            };
            Ok(found.unwrap_or(1.0) as f32)
        };
        Ok(Self { alpha: read(alpha)?, beta: read(beta)? })
    }

    fn apply(self, block: Block) -> Block {
        let residual = Residual::Normed { scale: self.alpha };
        Block { residual, residual_scale: self.beta, ..block }
    }
}

/// The lightning attention of a layer.
fn lightning(model: &Transformer<'_>, layer: usize, prefix: &str) -> LinearAttention {
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
        log_decays: log_decays(heads, layer, model.frame.layers),
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

/// The experts of a layer.
fn experts(model: &Transformer<'_>, counts: Counts, inner: usize, prefix: &str) -> Moe {
    let (hidden, prefix) = (model.frame.hidden, format!("{prefix}.block_sparse_moe"));
    let (names, sizes) = (["w1", "w3", "w2"], [hidden, inner]);
    let router = Linear::new(&format!("{prefix}.gate"), counts.experts, hidden, false);
    Moe {
        router: Router::softmax(router, counts.top_k, true),
        experts: separate_experts(&prefix, counts.experts, names, sizes, model.activation),
        latent: None,
        shared: None,
        shared_gate: None,
    }
}

#[cfg(test)]
#[path = "minimax_tests.rs"]
mod tests;
