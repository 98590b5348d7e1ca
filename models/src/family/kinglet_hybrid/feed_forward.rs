//! `mlp` and `moe`.

use super::part::Layer;
use super::{Defaults, indivisible, required};
use crate::config::Fields;
use crate::experts::Counts;
use crate::frame::limit;
use crate::{
    Activation, Dense, ExpertGroups, GroupRank, Latent, Linear, Matrix, Mixer, ModelError, Moe,
    Norm, Router, TensorSpec,
};

/// Fields of `mlp`.
pub(super) const MLP: &[&str] = &["intermediate_size", "activation", "gated", "bias"];

/// Fields of `moe`.
pub(super) const MOE: &[&str] = &[
    "num_experts",
    "top_k",
    "intermediate_size",
    "activation",
    "temperature",
    "groups",
    "top_groups",
    "shared_intermediate_size",
    "latent_size",
    "expert_norm",
];

fn activation(fields: &Fields<'_>) -> Result<Activation, ModelError> {
    const KEY: &str = "activation";
    match fields.str(KEY)?.unwrap_or("silu") {
        "silu" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "relu2" => Ok(Activation::Relu2),
        _ => Err(fields.unsupported(KEY, "supported: silu, gelu, gelu_tanh, relu, relu2")),
    }
}

/// The network `PREFIX.{gate,up,down}`.
fn dense(
    prefix: &str,
    [hidden, inner]: [usize; 2],
    activation: Activation,
    (gated, bias): (bool, bool),
) -> Dense {
    let linear = |name: &str, outputs, inputs| {
        Linear::new(&format!("{prefix}.{name}"), outputs, inputs, bias)
    };
    Dense {
        gate: gated.then(|| linear("gate", inner, hidden)),
        up: linear("up", inner, hidden),
        down: linear("down", hidden, inner),
        activation,
        adapter: None,
        out: None,
    }
}

pub(super) fn mlp(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let sizes = [defaults.hidden, required(fields, "intermediate_size", limit::WIDTH)?];
    let activation = activation(fields)?;
    let switches = (fields.bool_or("gated", true)?, fields.bool_or("bias", false)?);
    Ok(Layer::new(move |prefix| Mixer::Dense(dense(prefix, sizes, activation, switches))))
}

pub(super) fn moe(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let hidden = defaults.hidden;
    let experts = required(fields, "num_experts", limit::EXPERTS)?;
    let top_k = required(fields, "top_k", limit::EXPERTS)?;
    let inner = required(fields, "intermediate_size", limit::WIDTH)?;
    let latent = match fields.size_or("latent_size", 0, 0, limit::WIDTH)? {
        0 => None,
        latent => Some(latent),
    };
    let width = latent.unwrap_or(hidden);
    Counts { experts, top_k }.check_stacks([width, inner])?;
    let temperature = fields.positive("temperature")?.unwrap_or(1.0);
    let groups = groups(fields, experts, top_k)?;
    let shared = fields.size_or("shared_intermediate_size", 0, 0, limit::WIDTH)?;
    let has_norms = fields.bool_or("expert_norm", false)?;
    let (activation, eps) = (activation(fields)?, defaults.eps);
    let build = move |prefix: &str| {
        let stack = |name: &str, rows, cols, expert| {
            let name = format!("{prefix}.experts.{name}.weight");
            Linear::from(Matrix::stacked(name, experts, rows, cols, expert))
        };
        let expert = |expert| Dense {
            gate: Some(stack("gate", inner, width, expert)),
            up: stack("up", inner, width, expert),
            down: stack("down", width, inner, expert),
            activation,
            adapter: None,
            out: None,
        };
        let router = Linear::new(&format!("{prefix}.router"), experts, hidden, false);
        let norms = TensorSpec::new(format!("{prefix}.experts.norm.weight"), [experts, width]);
        Mixer::Moe(Moe {
            router: Router {
                groups,
                ..Router::softmax(router.scaled((1.0 / temperature) as f32), top_k, true)
            },
            expert_norm: has_norms.then(|| Norm { weight: norms, ..Norm::new("", width, eps) }),
            experts: (0..experts).map(expert).collect(),
            latent: latent.map(|latent| Latent {
                down: Linear::new(&format!("{prefix}.latent_in"), latent, hidden, false),
                up: Linear::new(&format!("{prefix}.latent_out"), hidden, latent, false),
            }),
            shared: (shared > 0).then(|| {
                dense(&format!("{prefix}.shared"), [hidden, shared], activation, (true, false))
            }),
            shared_gate: None,
        })
    };
    Ok(Layer { build: Box::new(build), experts })
}

/// The first stage of routing; none where all groups are used.
fn groups(
    fields: &Fields<'_>,
    experts: usize,
    top_k: usize,
) -> Result<Option<ExpertGroups>, ModelError> {
    let count = fields.size_or("groups", 1, 1, limit::EXPERTS)?;
    if !experts.is_multiple_of(count) {
        let expected = format!("a divisor of num_experts = {experts}");
        return Err(indivisible(fields, "groups", count, expected));
    }
    let used = fields.size_or("top_groups", count, 1, limit::EXPERTS)?;
    if used > count {
        let expected = format!("at most groups = {count}");
        return Err(indivisible(fields, "top_groups", used, expected));
    }
    let choice = experts / count * used;
    if top_k > choice {
        let expected = format!("at most the {choice} experts to choose from");
        return Err(indivisible(fields, "top_k", top_k, expected));
    }
    Ok((used < count).then_some(ExpertGroups { count, used, rank: GroupRank::Largest }))
}
