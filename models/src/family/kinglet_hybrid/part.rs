//! The parts of layers: which there are, and what all of them have.

use super::{Defaults, NormKind, known, missing};
use super::{attention, feed_forward, recurrent};
use crate::config::Fields;
use crate::{Mixer, ModelError};

/// Makes a layer with the tensors `PREFIX.*`.
pub(super) type Build = Box<dyn Fn(&str) -> Mixer>;

/// A part of a layer: one residual block.
pub(super) struct Part {
    pub(super) norm: NormKind,
    pub(super) eps: f32,
    pub(super) residual_scale: f32,
    pub(super) build: Build,
    /// Experts, or 1: what a spec of it weighs.
    pub(super) matrices: usize,
}

/// A layer as a reader below returns it.
pub(super) struct Layer {
    pub(super) build: Build,
    pub(super) experts: usize,
}

impl Layer {
    /// A layer without experts.
    pub(super) fn new(build: impl Fn(&str) -> Mixer + 'static) -> Self {
        Self { build: Box::new(build), experts: 0 }
    }
}

/// The fields that every part may have.
const OWN: &[&str] = &["type", "norm", "norm_eps", "residual_scale"];

/// Reads the fields of a type of part.
type Read = fn(&Fields<'_>, &Defaults) -> Result<Layer, ModelError>;

/// Every type of part: its name, its fields and its reader.
const TYPES: &[(&str, &[&str], Read)] = &[
    ("mlp", feed_forward::MLP, feed_forward::mlp),
    ("moe", feed_forward::MOE, feed_forward::moe),
    ("attention", attention::ATTENTION, attention::attention),
    ("linear_attention", attention::LINEAR, attention::linear),
    ("hybrid_attention", attention::HYBRID, attention::hybrid),
    ("multi_level_attention", attention::MULTI_LEVEL, attention::multi_level),
    ("mamba", recurrent::MAMBA, recurrent::mamba),
    ("mamba2", recurrent::MAMBA2, recurrent::mamba2),
    ("mlstm", recurrent::MLSTM, recurrent::mlstm),
    ("slstm", recurrent::SLSTM, recurrent::slstm),
];

impl Part {
    pub(super) fn read(fields: &Fields<'_>, defaults: &Defaults) -> Result<Self, ModelError> {
        let Some(name) = fields.str("type")? else {
            return Err(missing(fields, "type", "the type of a part"));
        };
        let Some((_, own, read)) = TYPES.iter().find(|(known, ..)| *known == name) else {
            let names: Vec<&str> = TYPES.iter().map(|(name, ..)| *name).collect();
            return Err(fields.unsupported("type", format!("supported: {}", names.join(", "))));
        };
        known(fields, |key| OWN.contains(&key) || own.contains(&key))?;
        let layer = read(fields, defaults)?;
        let scale = fields.finite("residual_scale")?.map(|scale| scale as f32);
        Ok(Self {
            norm: NormKind::read(fields, defaults.norm)?,
            eps: fields.epsilon("norm_eps", defaults.eps.into())?,
            residual_scale: scale.unwrap_or(defaults.residual_scale),
            matrices: layer.experts.max(1),
            build: layer.build,
        })
    }
}
