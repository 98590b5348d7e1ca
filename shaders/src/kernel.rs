//! What a kernel declares in the header of its WGSL file:
//!
//! ```text
//! //# kernel NAME FORM [TRAIT ..]: what it does
//! ```
//!
//! `NAME` is its variant of [`Kernel`]; `FORM` is the word that `when` and `unless` directives ask for, `-` if the file holds one kernel.
//! The traits say in which variants it comes:
//!
//! | trait | variants |
//! | --- | --- |
//! | `weights` | one for each [`WeightType`] of the matrix that it reads |
//! | `cache` | one for each type of a quantized key/value cache |
//! | `states` | one for each type of a recurrent state |
//! | `int8` | one more with activations in eight bits, for weights with integer codes |
//! | `tiled` | one each for cooperative matrices, f16 and f32; weights stored in f32 have only the last |
//! | `f16` | one each for f16 and f32 |
//! | `reduce` | one for each [`Reduction`](super::variant::Reduction) |
//! | `samples` | none more: it takes part in choosing a token |
//!
//! `shaders/generate.sh` turns the headers into [`Kernel`].

use super::generated::KERNELS;
pub use super::generated::Kernel;
use super::variant::{Arithmetic, WeightType};

/// A kernel's declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Declaration {
    /// Its file, without the extension.
    pub(crate) file: &'static str,
    /// Its form there; empty if the file holds one kernel.
    pub(crate) form: &'static str,
    /// What `use weights` stands for.
    pub(crate) stored: Stored,
    /// The kinds of arithmetic that it comes in.
    pub(crate) arithmetic: Kinds,
    /// Whether it has a variant for each reduction.
    pub(crate) reduces: bool,
    /// Whether it takes part in choosing a token.
    pub(crate) samples: bool,
}

/// What a kernel reads that comes in several storage types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing.
    Nothing,
    /// A weight matrix.
    Weights,
    /// A quantized key/value cache.
    Cache,
    /// Recurrent states.
    States,
}

/// Kinds of arithmetic that a kernel comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// f32 only.
    Plain,
    /// Activations in eight bits, too.
    Int8,
    /// Cooperative matrices and f16, too: it multiplies tiles that [`Kernel::Prepare`] made ready.
    Tiled,
    /// f16, too.
    F16,
}

impl Kernel {
    const fn declaration(self) -> &'static Declaration {
        &KERNELS[self as usize]
    }

    /// Its file, without the extension, and its form there.
    pub const fn file(self) -> (&'static str, &'static str) {
        let declaration = self.declaration();
        (declaration.file, declaration.form)
    }

    /// The part that reads `weights` as they are stored; `None` where the kernel has no variant for that type.
    pub const fn stored(self, weights: WeightType) -> Option<&'static str> {
        match (self.declaration().stored, weights) {
            (Stored::Cache, WeightType::Affine4) => Some("cache_affine4"),
            (Stored::Cache, WeightType::Affine8) => Some("cache_affine8"),
            (Stored::States, WeightType::F32) => Some("state_f32"),
            (Stored::States, WeightType::F16) => Some("state_f16"),
            (Stored::Cache | Stored::States, _) => None,
            (Stored::Nothing | Stored::Weights, weights) => Some(weights.part()),
        }
    }

    /// Whether it has a variant for each [`WeightType`] that can be [stored](Self::stored).
    pub const fn has_weights(self) -> bool {
        !matches!(self.declaration().stored, Stored::Nothing)
    }

    /// Whether it reads or writes recurrent states, whose type takes the place of the weights'.
    pub const fn has_states(self) -> bool {
        matches!(self.declaration().stored, Stored::States)
    }

    /// The kinds of arithmetic that it has a variant for with these weights, from the fastest to the exact one, which is always there.
    pub const fn arithmetics(self, weights: WeightType) -> &'static [Arithmetic] {
        match (self.declaration().arithmetic, weights) {
            (Kinds::Int8, weights) if weights.has_integer_codes() => {
                &[Arithmetic::Int8, Arithmetic::F32]
            }
            (Kinds::Plain | Kinds::Int8, _) | (Kinds::Tiled, WeightType::F32) => &[Arithmetic::F32],
            (Kinds::Tiled, _) => &[Arithmetic::Cooperative, Arithmetic::F16, Arithmetic::F32],
            (Kinds::F16, _) => &[Arithmetic::F16, Arithmetic::F32],
        }
    }

    /// Whether its threads reduce, so that it has a variant for each [`Reduction`](super::variant::Reduction).
    pub const fn has_reduction(self) -> bool {
        self.declaration().reduces
    }

    /// Whether it takes part in choosing a token.
    pub const fn samples(self) -> bool {
        self.declaration().samples
    }
}
