//! Layers in small: what a self-test computes in place of a real one.

use crate::spec::{Conv, Linear, Matrix, Norm, TensorSpec};

use super::part::Place;
use super::{Mixer, Role};

/// The sizes that a layer is brought down to; what is smaller stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Small {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Channels of a recurrent layer, and width within a feed-forward network.
    pub width: usize,
    /// Width within an expert.
    pub expert_width: usize,
    /// Heads, or groups of them.
    pub heads: usize,
    /// Experts, if a token doesn't take more.
    pub experts: usize,
    /// Positions that a window of attention shows, so that it moves.
    pub window: usize,
}

/// A tensor of a layer in small, to be replaced by one that exists.
#[derive(Debug)]
pub enum SmallPart<'a> {
    /// A projection; its weight names the tensor and the first row of the real one.
    Linear(&'a mut Linear),
    /// Any other tensor.
    Tensor(Role, &'a mut TensorSpec),
}

impl Mixer {
    /// Every tensor of a layer in small, in the order of [`parts`](Mixer::parts).
    pub fn small_parts(&mut self) -> Vec<SmallPart<'_>> {
        let all = self.places().into_iter();
        all.filter_map(|part| match part.place {
            Place::Linear(linear) => Some(SmallPart::Linear(linear)),
            Place::Conv(tensor) | Place::Vector(tensor) => {
                Some(SmallPart::Tensor(part.role, tensor))
            }
            // Layers have none.
            Place::Table(_) => None,
        })
        .collect()
    }
}

impl TensorSpec {
    /// The same name with another shape.
    pub(super) fn sized(&self, shape: impl Into<Vec<usize>>) -> Self {
        Self::new(&*self.name, shape)
    }
}

impl Linear {
    /// The same projection with other sizes. Tensor and first row still say which it is.
    pub(super) fn sized(&self, rows: usize, cols: usize) -> Self {
        Self {
            weight: Matrix { rows, cols, ..self.weight.clone() },
            bias: self.bias.as_ref().map(|bias| {
                // A bias of all rows of a tensor stays one as long as no row is left out.
                let whole = rows == self.weight.rows;
                if whole { bias.clone() } else { bias.sized([rows]) }
            }),
            scale: self.scale,
        }
    }
}

/// The first of `parts`, which are equally large, with `rows` rows in all.
pub(super) fn sized_parts(parts: &[Linear], rows: usize, cols: usize) -> Vec<Linear> {
    match parts {
        [] => Vec::new(),
        [whole] => vec![whole.sized(rows, cols)],
        [first, ..] => {
            let each = first.weight.rows.max(1);
            parts.iter().take(rows / each).map(|part| part.sized(each, cols)).collect()
        }
    }
}

impl Norm {
    /// The same norm over `width` elements.
    pub(super) fn sized(&self, width: usize) -> Self {
        Self {
            weight: self.weight.sized([width]),
            bias: self.bias.as_ref().map(|bias| bias.sized([width])),
            ..self.clone()
        }
    }
}

impl Conv {
    /// The same convolution over `channels`.
    pub(super) fn sized(&self, channels: usize) -> Self {
        Self {
            weight: self.weight.sized([channels, 1, self.kernel]),
            bias: self.bias.as_ref().map(|bias| bias.sized([channels])),
            channels,
            kernel: self.kernel,
        }
    }
}
