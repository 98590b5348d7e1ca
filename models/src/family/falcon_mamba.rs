//! FalconMamba (Zuo et al., "Falcon Mamba: The First Competitive Attention-free 7B Language Model",
//! 2024): Mamba with weightless norms on the step size, B and C.

use super::Family;
use super::mamba::{DEFAULTS, blocks};
use crate::frame::{BACKBONE, Frame};
use crate::{Config, ModelError, ModelSpec};

/// This family.
pub(super) const FAMILY: Family = Family {
    model_type: "falcon_mamba",
    class: "FalconMambaForCausalLM",
    spec,
    in_mlx: true,
    older_fields: super::mlx::none,
    unfold: None,
};

/// The model that `config` describes.
fn spec(config: &Config) -> Result<ModelSpec, ModelError> {
    let frame = Frame::read(config, BACKBONE, DEFAULTS)?;
    let eps = frame.fields.epsilon("mixer_rms_eps", 1e-6)?;
    let blocks = blocks(&frame, Some(eps))?;
    frame.model("falcon_mamba", blocks)
}

#[cfg(test)]
#[path = "falcon_mamba_tests.rs"]
mod tests;
