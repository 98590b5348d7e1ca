//! Small versions of layers, for the self-test.

use crate::spec::{Conv, Linear, Matrix, Norm, TensorSpec};

use super::part::Place;
use super::{Mixer, Role};

/// Maximum sizes of a small layer; smaller sizes stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Small {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Channels of a recurrent layer, and inner width of a feed-forward network.
    pub width: usize,
    /// Inner width of an expert.
    pub expert_width: usize,
    /// Heads, or groups of heads.
    pub heads: usize,
    /// Experts, unless a token uses more.
    pub experts: usize,
    /// Positions in an attention window; small, so that the window moves.
    pub window: usize,
}

impl Small {
    /// Query and key/value heads of a small version of a layer with `heads` and `kv_heads` of width `head_dim`: the same number of queries for
    /// each key, and enough heads for a row of the output projection to be whole groups of any quantized format.
    pub(super) fn grouped_heads(
        &self,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> [usize; 2] {
        let group = (heads / kv_heads.max(1)).max(1);
        let least = (self.width / 2).div_ceil((group * head_dim).max(1)).max(self.heads);
        let kv_heads = kv_heads.min(least);
        [kv_heads * group, kv_heads]
    }
}

/// A tensor of a small layer, to be replaced by an existing one.
#[derive(Debug)]
pub enum SmallPart<'a> {
    /// A projection. Its weight names the real tensor and its first row.
    Linear(&'a mut Linear),
    /// Any other tensor.
    Tensor(Role, &'a mut TensorSpec),
}

impl Mixer {
    /// Every tensor of a small layer, in the order of [`parts`](Mixer::parts).
    pub fn small_parts(&mut self) -> Vec<SmallPart<'_>> {
        let all = self.places().into_iter();
        all.filter_map(|part| match part.place {
            Place::Linear(linear) => Some(SmallPart::Linear(linear)),
            Place::Conv(tensor) | Place::Vector(tensor) => {
                Some(SmallPart::Tensor(part.role, tensor))
            }
            // Layers have no tables.
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
    /// The same projection with other sizes. Tensor and first row still identify the real one.
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
