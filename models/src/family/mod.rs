//! The families: one file each, named like its `model_type`, with everything particular to it.

pub(crate) mod mlx;

mod bamba;
mod falcon_h1;
mod falcon_mamba;
mod granite;
mod granitemoe;
mod granitemoehybrid;
mod granitemoeshared;
mod jamba;
mod kimi_linear;
mod kinglet_hybrid;
mod lfm2;
mod lfm2_moe;
mod lfm3;
mod llama;
mod mamba;
mod mamba2;
mod minimax;
mod mistral;
mod mixtral;
mod nemotron_h;
mod olmo_hybrid;
mod olmoe;
mod qwen2;
mod qwen3;
pub(crate) mod qwen3_5_moe_text;
pub(crate) mod qwen3_5_text;
mod qwen3_moe;
pub(crate) mod qwen3_next;
mod xlstm;
mod zamba;
mod zamba2;

use mlx::{NamedField, Root};

use crate::{Config, FoldError, ModelError, ModelSpec};

/// See [`Family::unfold`].
pub(crate) type Unfold = fn(&mut ModelSpec) -> Result<(), FoldError>;

/// A family of models.
pub(crate) struct Family {
    /// Its `model_type`.
    pub(crate) model_type: &'static str,
    /// Its entry in `architectures`.
    pub(crate) class: &'static str,
    /// Reads its config.
    pub(crate) spec: Reader,
    /// Whether mlx-lm supports it: its quantized checkpoints use mlx-lm's names and stacks,
    /// otherwise those of the family's file.
    pub(crate) in_mlx: bool,
    /// Fields that mlx-lm reads under older names, in addition to those of all families.
    pub(crate) older_fields: fn(&Root) -> Vec<NamedField>,
    /// If mlx-lm multiplies factors of the config into the weights when it converts a checkpoint:
    /// takes these factors out of a spec.
    pub(crate) unfold: Option<Unfold>,
}

/// Another `model_type` of a family, whose file reads these configs too.
pub(crate) struct Spelling {
    /// The `model_type`.
    pub(crate) model_type: &'static str,
    /// The entry in `architectures`.
    pub(crate) class: &'static str,
    /// Reads the config. The spec has the family's `model_type`.
    pub(crate) spec: Reader,
}

/// Reads a config.
pub(crate) type Reader = fn(&Config) -> Result<ModelSpec, ModelError>;

/// What reads configs with this `model_type`.
pub(crate) fn reader_of_type(name: &str) -> Option<Reader> {
    let family = FAMILIES.iter().find(|family| family.model_type == name);
    let spelling = || SPELLINGS.iter().find(|spelling| spelling.model_type == name);
    family.map(|family| family.spec).or_else(|| spelling().map(|spelling| spelling.spec))
}

/// What reads configs with this entry in `architectures`.
pub(crate) fn reader_of_class(name: &str) -> Option<Reader> {
    let family = FAMILIES.iter().find(|family| family.class == name);
    let spelling = || SPELLINGS.iter().find(|spelling| spelling.class == name);
    family.map(|family| family.spec).or_else(|| spelling().map(|spelling| spelling.spec))
}

/// Other values of `model_type` than the families'.
pub(crate) const SPELLINGS: &[Spelling] = &[minimax::TEXT_01, minimax::M1];

/// Every family, in alphabetical order.
pub(crate) const FAMILIES: &[Family] = &[
    bamba::FAMILY,
    falcon_h1::FAMILY,
    falcon_mamba::FAMILY,
    granite::FAMILY,
    granitemoe::FAMILY,
    granitemoehybrid::FAMILY,
    granitemoeshared::FAMILY,
    jamba::FAMILY,
    kimi_linear::FAMILY,
    kinglet_hybrid::FAMILY,
    lfm2::FAMILY,
    lfm2_moe::FAMILY,
    lfm3::FAMILY,
    llama::FAMILY,
    mamba::FAMILY,
    mamba2::FAMILY,
    minimax::FAMILY,
    mistral::FAMILY,
    mixtral::FAMILY,
    nemotron_h::FAMILY,
    olmo_hybrid::FAMILY,
    olmoe::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_5_moe_text::FAMILY,
    qwen3_5_text::FAMILY,
    qwen3_moe::FAMILY,
    qwen3_next::FAMILY,
    xlstm::FAMILY,
    zamba::FAMILY,
    zamba2::FAMILY,
];
