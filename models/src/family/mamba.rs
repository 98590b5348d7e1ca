//! Mamba (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023), and its
//! layers for FalconMamba.

use super::Family;
use super::mamba2::inner;
use crate::frame::{BACKBONE, Frame, FrameDefaults, limit};
use crate::{Block, Config, Conv, Linear, Mamba, Mixer, ModelError, ModelSpec, TensorSpec};

/// Defaults for absent fields, shared with FalconMamba.
pub(crate) const DEFAULTS: FrameDefaults =
    FrameDefaults { hidden: 768, vocab: 50280, layers: 32, eps: 1e-5, tied: true };

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "mamba",
    class: "MambaForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::none,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(config, BACKBONE, DEFAULTS)?;
    let blocks = blocks(&frame, None)?;
    frame.model("mamba", blocks)
}

/// The layers; `bcdt_norm_eps` is as in [`Mamba`].
pub(crate) fn blocks(
    frame: &Frame<'_>,
    bcdt_norm_eps: Option<f32>,
) -> Result<Vec<Block>, ModelError> {
    frame.require_silu()?;
    let (fields, hidden) = (&frame.fields, frame.hidden);
    // If both are given, the reference uses the width; FalconMamba's own checkpoint relies on that.
    let inner = match fields.size("intermediate_size", 1, limit::WIDTH)? {
        Some(inner) => inner,
        None => inner(fields, "expand", hidden)?,
    };
    const DT_RANK: &str = "time_step_rank";
    let dt_rank = match fields.get(DT_RANK).and_then(|value| value.as_str()) {
        Some("auto") => hidden.div_ceil(16),
        _ => fields.size_or(DT_RANK, hidden.div_ceil(16), 1, limit::WIDTH)?,
    };
    let state = fields.size_or("state_size", 16, 1, limit::STATE)?;
    let kernel = fields.size_or("conv_kernel", 4, 1, limit::KERNEL)?;
    let bias = fields.bool_or("use_bias", false)?;
    let conv_bias = fields.bool_or("use_conv_bias", true)?;

    let block = |layer| {
        let prefix = format!("backbone.layers.{layer}.mixer");
        let linear = |name: &str, outputs, inputs, bias| {
            Linear::new(&format!("{prefix}.{name}"), outputs, inputs, bias)
        };
        let mixer = Mixer::Mamba(Mamba {
            in_proj: linear("in_proj", 2 * inner, hidden, bias),
            conv: Conv::new(&format!("{prefix}.conv1d"), inner, kernel, conv_bias),
            x_proj: linear("x_proj", dt_rank + 2 * state, inner, false),
            dt_proj: linear("dt_proj", inner, dt_rank, true),
            a_log: TensorSpec::new(format!("{prefix}.A_log"), [inner, state]),
            d: TensorSpec::new(format!("{prefix}.D"), [inner]),
            out_proj: linear("out_proj", hidden, inner, bias),
            inner,
            state,
            dt_rank,
            bcdt_norm_eps,
        });
        frame.block(layer, &format!("backbone.layers.{layer}.norm"), mixer)
    };
    Ok((0..frame.layers).map(block).collect())
}

#[cfg(test)]
#[path = "mamba_tests.rs"]
mod tests;
