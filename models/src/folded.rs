//! Checkpoints with parts of the computation folded into the weights.
//!
//! When mlx-lm converts a checkpoint of Falcon-H1, it multiplies most of the config's factors into
//! the weights, and config.json keeps them. For Qwen3-Next and Qwen3.5 it stores `1 + w` in place of
//! the weights `w` of norms. mlx-lm knows such a checkpoint by the
//! taps of its convolutions, which it moves in the same step: `[channels, kernel, 1]`, where
//! `transformers` has `[channels, 1, kernel]`. With a single tap the two are the same, and mlx-lm
//! multiplies nothing.

use std::fmt;

use crate::family::{FAMILIES, Unfold};
use crate::layer::Place;
use crate::{ModelSpec, TensorSpec};

/// Why a checkpoint that has factors of the config in its weights can't be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldError {
    /// A factor is in a weight but not in the bias that it applies to as well.
    Bias {
        /// The weight.
        weight: String,
        /// The bias.
        bias: String,
    },
    /// The factor in a weight can't be divided out: it is 0 or too small.
    Lost {
        /// The weight.
        tensor: String,
    },
    /// Some convolutions are stored as in converted checkpoints, others are not.
    Mixed {
        /// A convolution of a converted checkpoint.
        converted: String,
        /// One of another checkpoint.
        other: String,
    },
}

impl fmt::Display for FoldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bias { weight, bias } => write!(
                f,
                "mlx-lm multiplied a factor of config.json into {weight:?} but not into {bias:?}, so \
                 the checkpoint computes another model; convert the original checkpoint instead"
            ),
            Self::Lost { tensor } => write!(
                f,
                "mlx-lm multiplied a factor of config.json into {tensor:?} that can't be divided out: \
                 it is 0 or too small"
            ),
            Self::Mixed { converted, other } => write!(
                f,
                "{converted:?} is stored as mlx-lm does, which multiplies factors of config.json into \
                 the weights, but {other:?} is not"
            ),
        }
    }
}

impl std::error::Error for FoldError {}

impl ModelSpec {
    /// Takes out of the spec the factors that the weights of a checkpoint already contain. `stored`
    /// gives the shapes of the checkpoint's tensors. Names must have been fitted
    /// ([`fit_names`](Self::fit_names)) and the tie settled ([`settle_tie`](Self::settle_tie)).
    ///
    /// # Errors
    /// If the model of the config can't be computed with these weights.
    pub fn fit_factors<'a>(
        &mut self,
        stored: impl Fn(&str) -> Option<&'a [usize]>,
    ) -> Result<(), FoldError> {
        if self.unfold().is_none() {
            return Ok(());
        }
        let (mut converted, mut other) = (None, None);
        for conv in self.convs() {
            let (own, Some(moved)) = (&conv.shape, moved(&conv.shape)) else { continue };
            let found = stored(&conv.name);
            if found == Some(&moved) {
                converted = converted.or_else(|| Some(conv.name.clone()));
            } else if found == Some(own) {
                other = other.or_else(|| Some(conv.name.clone()));
            }
        }
        match (converted, other) {
            (Some(converted), Some(other)) => Err(FoldError::Mixed { converted, other }),
            (Some(_), None) => self.fold(),
            (None, _) => Ok(()),
        }
    }

    /// Whether the weights contain factors of the config.
    pub fn is_folded(&self) -> bool {
        self.unfold().is_some() && self.clone().convs().iter().any(|conv| is_moved(&conv.shape))
    }

    /// Makes the spec that of a checkpoint whose weights contain factors of the config, as far as
    /// mlx-lm multiplies any into the weights of the family. Does nothing the second time, or where
    /// every convolution has a single tap.
    ///
    /// # Errors
    /// As [`fit_factors`](Self::fit_factors).
    pub fn fold(&mut self) -> Result<(), FoldError> {
        let Some(unfold) = self.unfold() else { return Ok(()) };
        if self.convs().iter().all(|conv| moved(&conv.shape).is_none()) {
            return Ok(());
        }
        unfold(self)?;
        for conv in self.convs() {
            if let Some(moved) = moved(&conv.shape) {
                conv.shape = moved;
            }
        }
        Ok(())
    }

    fn unfold(&self) -> Option<Unfold> {
        FAMILIES.iter().find(|family| family.model_type == self.model_type)?.unfold
    }

    fn convs(&mut self) -> Vec<&mut TensorSpec> {
        let convs = self.places().into_iter().filter_map(|place| match place {
            Place::Conv(conv) => Some(conv),
            Place::Linear(..) | Place::Table(_) | Place::Vector(_) => None,
        });
        convs.collect()
    }
}

/// The shape of a convolution in converted checkpoints, if it differs.
fn moved(shape: &[usize]) -> Option<Vec<usize>> {
    match *shape {
        [channels, 1, kernel] if kernel > 1 => Some(vec![channels, kernel, 1]),
        _ => None,
    }
}

/// Whether a convolution has its shape in converted checkpoints.
fn is_moved(shape: &[usize]) -> bool {
    matches!(shape, [_, kernel, 1] if *kernel > 1)
}

#[cfg(test)]
#[path = "folded_tests.rs"]
mod tests;
