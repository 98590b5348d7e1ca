//! `mamba`, `mamba2`, `mlstm` and `slstm`.

use super::part::Layer;
use super::{Defaults, indivisible, required};
use crate::config::Fields;
use crate::family::mamba::MambaShape;
use crate::family::mamba2::{Mamba2Shape, dt_limit};
use crate::frame::{limit, product};
use crate::{
    CellGating, ForgetGate, MLstm, MLstmSizes, Mamba2Gate, Mixer, ModelError, Norm, SLstm,
};

/// Fields of `mamba`.
pub(super) const MAMBA: &[&str] =
    &["state_size", "conv_kernel", "expand", "dt_rank", "conv_bias", "bias"];

/// Fields of `mamba2`.
pub(super) const MAMBA2: &[&str] = &[
    "state_size",
    "num_heads",
    "head_dim",
    "n_groups",
    "conv_kernel",
    "conv_bias",
    "bias",
    "time_step_limit",
    "gate",
];

/// Fields of `mlstm`.
pub(super) const MLSTM: &[&str] =
    &["num_heads", "qk_head_dim", "proj_factor", "forget_gate", "conv_kernel", "head_norm"];

/// Fields of `slstm`.
pub(super) const SLSTM: &[&str] =
    &["num_heads", "proj_factor", "gating", "forget_gate", "memory_mixing"];

pub(super) fn mamba(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let hidden = defaults.hidden;
    let expand = fields.size_or("expand", 2, 1, limit::WIDTH)?;
    let shape = MambaShape {
        hidden,
        inner: product("expand * hidden_size", &[expand, hidden], limit::WIDTH)?,
        dt_rank: fields.size_or("dt_rank", hidden.div_ceil(16), 1, limit::WIDTH)?,
        state: required(fields, "state_size", limit::STATE)?,
        kernel: fields.size_or("conv_kernel", 4, 1, limit::KERNEL)?,
        bias: fields.bool_or("bias", false)?,
        conv_bias: fields.bool_or("conv_bias", true)?,
    };
    Ok(Layer::new(move |prefix| Mixer::Mamba(shape.layer(prefix))))
}

pub(super) fn mamba2(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let heads = required(fields, "num_heads", limit::HEADS)?;
    let head_dim = required(fields, "head_dim", limit::ROWS)?;
    let groups = fields.size_or("n_groups", 1, 1, limit::HEADS)?;
    if !heads.is_multiple_of(groups) {
        let expected = format!("a divisor of num_heads = {heads}");
        return Err(indivisible(fields, "n_groups", groups, expected));
    }
    let bias = fields.bool_or("bias", false)?;
    let is_normed = match fields.str("gate")?.unwrap_or("norm") {
        "norm" => true,
        "silu" => false,
        _ => return Err(fields.unsupported("gate", "supported: norm, silu")),
    };
    let shape = Mamba2Shape {
        hidden: defaults.hidden,
        inner: product("num_heads * head_dim", &[heads, head_dim], limit::ROWS)?,
        heads,
        head_dim,
        groups,
        state: required(fields, "state_size", limit::STATE)?,
        kernel: fields.size_or("conv_kernel", 4, 1, limit::KERNEL)?,
        in_bias: bias,
        out_bias: bias,
        conv_bias: fields.bool_or("conv_bias", true)?,
        dt_limit: dt_limit(fields)?,
        eps: defaults.eps,
    };
    shape.check()?;
    Ok(Layer::new(move |prefix| {
        let mut layer = shape.layer(prefix);
        layer.gate = match is_normed {
            true => Mamba2Gate::NormAfter {
                norm: Norm::new(&format!("{prefix}.gate_norm"), shape.inner, shape.eps),
                groups,
            },
            false => Mamba2Gate::Silu,
        };
        Mixer::Mamba2(layer)
    }))
}

/// The inner width `proj_factor * hidden_size`, a whole number of heads.
fn inner(
    fields: &Fields<'_>,
    hidden: usize,
    default: f64,
    heads: usize,
) -> Result<usize, ModelError> {
    const KEY: &str = "proj_factor";
    let factor = fields.positive(KEY)?.unwrap_or(default);
    let inner = factor * hidden as f64;
    if inner.fract() != 0.0 || !(1.0..=limit::WIDTH as f64).contains(&inner) {
        return Err(ModelError::OutOfRange {
            field: fields.path(KEY),
            value: factor.to_string(),
            expected: format!(
                "a factor that gives a whole width from 1 to {} with hidden_size = {hidden}",
                limit::WIDTH
            ),
        });
    }
    let inner = inner as usize;
    if !inner.is_multiple_of(heads) {
        let expected = format!("a divisor of proj_factor * hidden_size = {inner}");
        return Err(indivisible(fields, "num_heads", heads, expected));
    }
    Ok(inner)
}

fn forget_gate(fields: &Fields<'_>) -> Result<ForgetGate, ModelError> {
    match fields.str("forget_gate")?.unwrap_or("sigmoid") {
        "sigmoid" => Ok(ForgetGate::Sigmoid),
        "exp" => Ok(ForgetGate::Exponential),
        _ => Err(fields.unsupported("forget_gate", "supported: sigmoid, exp")),
    }
}

pub(super) fn mlstm(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let heads = required(fields, "num_heads", limit::HEADS)?;
    let qk_head_dim = required(fields, "qk_head_dim", limit::ROWS)?;
    product("num_heads * qk_head_dim", &[heads, qk_head_dim], limit::ROWS)?;
    let (hidden, eps) = (defaults.hidden, defaults.eps);
    let sizes = MLstmSizes {
        hidden,
        heads,
        qk_head_dim,
        v_head_dim: inner(fields, hidden, 2.0, heads)? / heads,
        conv_kernel: fields.size_or("conv_kernel", 0, 0, limit::KERNEL)?,
    };
    let forget_gate = forget_gate(fields)?;
    let normed = fields.bool_or("head_norm", false)?;
    Ok(Layer::new(move |prefix| {
        Mixer::MLstm(MLstm::with_inner(prefix, sizes, forget_gate, normed, eps))
    }))
}

pub(super) fn slstm(fields: &Fields<'_>, defaults: &Defaults) -> Result<Layer, ModelError> {
    let heads = required(fields, "num_heads", limit::HEADS)?;
    let forget_gate = forget_gate(fields)?;
    let gating = match fields.str("gating")?.unwrap_or("exp") {
        "exp" => CellGating::Exponential(forget_gate),
        "sigmoid" if forget_gate == ForgetGate::Exponential => {
            let problem = "sigmoid gating has a sigmoid as forget gate";
            return Err(fields.unsupported("forget_gate", problem));
        }
        "sigmoid" => CellGating::Sigmoid,
        _ => return Err(fields.unsupported("gating", "supported: exp, sigmoid")),
    };
    let (hidden, eps) = (defaults.hidden, defaults.eps);
    let head_dim = inner(fields, hidden, 1.0, heads)? / heads;
    let mixes = fields.bool_or("memory_mixing", true)?;
    product(
        "4 * num_heads * (proj_factor * hidden_size / num_heads)",
        &[4, heads, head_dim],
        limit::ROWS,
    )?;
    Ok(Layer::new(move |prefix| {
        Mixer::SLstm(SLstm::new(prefix, hidden, [heads, head_dim], gating, mixes, eps))
    }))
}
