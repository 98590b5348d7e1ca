//! The declaration of a kernel in the header of its WGSL file:
//!
//! ```text
//! //# kernel NAME FORM [TRAIT ..]: what it does
//! ```
//!
//! `NAME` is its variant of [`Kernel`]; `FORM` is the word for `when` and `unless` directives, `-`
//! if the file holds one kernel. The traits determine its variants:
//!
//! | trait | variants |
//! | --- | --- |
//! | `weights` | one for each [`WeightType`] of its matrix |
//! | `cache` | one for each type of a quantized key/value cache |
//! | `states` | one for each type of a recurrent state |
//! | `int8` | one more with 8-bit activations, for weights with integer codes |
//! | `tiled` | one each for cooperative matrices, f16 and f32; weights stored in f32 have only the last |
//! | `f16` | one each for f16 and f32 |
//! | `reduce` | one for each [`Reduction`](super::variant::Reduction) |
//! | `samples` | none more; the kernel takes part in choosing a token |
//!
//! `shaders/generate.sh` turns the headers into [`Kernel`].

use super::generated::KERNELS;
pub use super::generated::Kernel;
use super::variant::{Arithmetic, WeightType};

/// The declaration of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Declaration {
    /// Its file, without extension.
    pub(crate) file: &'static str,
    /// Its form there; empty if the file holds one kernel.
    pub(crate) form: &'static str,
    /// Meaning of `use weights`.
    pub(crate) stored: Stored,
    /// The kinds of arithmetic it supports.
    pub(crate) arithmetic: Kinds,
    /// Whether it has a variant for each reduction.
    pub(crate) reduces: bool,
    /// Whether it takes part in choosing a token.
    pub(crate) samples: bool,
}

/// Data that a kernel reads in several storage types.
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

/// Kinds of arithmetic that a kernel supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// f32 only.
    Plain,
    /// Also 8-bit activations.
    Int8,
    /// Also cooperative matrices and f16: it multiplies tiles that [`Kernel::Prepare`] prepared.
    Tiled,
    /// Also f16.
    F16,
}

impl Kernel {
    const fn declaration(self) -> &'static Declaration {
        &KERNELS[self as usize]
    }

    /// Its file, without extension, and its form.
    pub const fn file(self) -> (&'static str, &'static str) {
        let declaration = self.declaration();
        (declaration.file, declaration.form)
    }

    /// The part that reads `weights`; `None` if the kernel has no variant for that type.
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

    /// Whether it reads or writes recurrent states, whose type then replaces the weights'.
    pub const fn has_states(self) -> bool {
        matches!(self.declaration().stored, Stored::States)
    }

    /// The kinds of arithmetic it supports with these weights, from the fastest to the exact one,
    /// which is always there.
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
