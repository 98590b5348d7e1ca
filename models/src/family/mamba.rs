//! Mamba (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023), and its
//! layers for FalconMamba.

use super::Family;
use super::mamba2::inner;
use crate::config::Fields;
use crate::frame::{BACKBONE, Frame, FrameDefaults, limit};
use crate::{
    BcdtNorm, Block, Config, Conv, Linear, Mamba, Mixer, ModelError, ModelSpec, TensorSpec,
};

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
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(config, BACKBONE, DEFAULTS)?;
    let blocks = blocks(&frame, None)?;
    frame.model("mamba", blocks)
}

/// The layers; with `bcdt_eps`, step sizes, B and C are normed without weights.
pub(crate) fn blocks(frame: &Frame<'_>, bcdt_eps: Option<f32>) -> Result<Vec<Block>, ModelError> {
    frame.require_silu()?;
    let (fields, hidden) = (&frame.fields, frame.hidden);
    // If both are given, the reference uses the width; FalconMamba's own checkpoint relies on that.
    let inner = match fields.size("intermediate_size", 1, limit::WIDTH)? {
        Some(inner) => inner,
        None => inner(fields, "expand", hidden)?,
    };
    let shape = MambaShape {
        hidden,
        inner,
        dt_rank: dt_rank(fields, "time_step_rank", hidden)?,
        state: fields.size_or("state_size", 16, 1, limit::STATE)?,
        kernel: fields.size_or("conv_kernel", 4, 1, limit::KERNEL)?,
        bias: fields.bool_or("use_bias", false)?,
        conv_bias: fields.bool_or("use_conv_bias", true)?,
    };
    let block = |layer| {
        let mut mamba = shape.layer(&format!("backbone.layers.{layer}.mixer"));
        mamba.bcdt_norm = bcdt_eps.map(|eps| BcdtNorm { eps, weights: None });
        frame.block(layer, &format!("backbone.layers.{layer}.norm"), Mixer::Mamba(mamba))
    };
    Ok((0..frame.layers).map(block).collect())
}

/// The rank of the step sizes in the field `key`; `"auto"` is the default.
pub(crate) fn dt_rank(fields: &Fields<'_>, key: &str, hidden: usize) -> Result<usize, ModelError> {
    match fields.get(key).and_then(|value| value.as_str()) {
        Some("auto") => Ok(hidden.div_ceil(16)),
        _ => fields.size_or(key, hidden.div_ceil(16), 1, limit::WIDTH),
    }
}

/// Sizes and switches of a Mamba layer, from whatever fields a family has them in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MambaShape {
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) dt_rank: usize,
    pub(crate) state: usize,
    pub(crate) kernel: usize,
    /// Whether the outer projections have biases.
    pub(crate) bias: bool,
    pub(crate) conv_bias: bool,
}

impl MambaShape {
    /// The layer with the tensors `PREFIX.*`, without norms.
    pub(crate) fn layer(&self, prefix: &str) -> Mamba {
        let Self { hidden, inner, dt_rank, state, .. } = *self;
        let linear = |name: &str, outputs, inputs, bias| {
            Linear::new(&format!("{prefix}.{name}"), outputs, inputs, bias)
        };
        Mamba {
            in_proj: linear("in_proj", 2 * inner, hidden, self.bias),
            alternating: false,
            conv: Conv::new(&format!("{prefix}.conv1d"), inner, self.kernel, self.conv_bias),
            x_proj: vec![linear("x_proj", dt_rank + 2 * state, inner, false)],
            dt_proj: vec![linear("dt_proj", inner, dt_rank, true)],
            a_log: TensorSpec::new(format!("{prefix}.A_log"), [inner, state]),
            d: TensorSpec::new(format!("{prefix}.D"), [inner]),
            out_proj: linear("out_proj", hidden, inner, self.bias),
            inner,
            state,
            dt_rank,
            bcdt_norm: None,
        }
    }
}

#[cfg(test)]
#[path = "mamba_tests.rs"]
mod tests;
