//! [`TargetTensor`]: a tensor of the new checkpoint, and the matrices of the old one that it is
//! composed of.

use kinglet_models::Matrix;
use kinglet_quant::{DType, Format};

use super::roles::Role;
use crate::weights::Encoding;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetTensor {
    /// Its name.
    pub name: String,
    /// Its shape if it were dense, outermost dimension first.
    pub shape: Vec<usize>,
    /// Type of its elements in the source, and of the scales if it is quantized in affine mode.
    pub dtype: DType,
    /// Its role in the model, or that of its first matrix if several are fused. `None` for vectors,
    /// convolutions and the like.
    pub role: Option<Role>,
    /// Index of its layer.
    pub layer: Option<usize>,
    /// The encoding to write.
    pub encoding: Encoding,
    /// Why it is not quantized, if it is not.
    pub kept: Option<Kept>,
    /// The matrices that it is composed of, from its first row to its last. Empty for a tensor that
    /// is not a matrix: its bytes are copied from [`TargetTensor::copy_of`].
    pub pieces: Vec<Piece>,
    /// The source tensor to copy, if it is not a matrix.
    pub copy_of: Option<String>,
}

/// One matrix of the model: some rows of a tensor, all of which see the same input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first row in the new tensor, with leading dimensions flattened.
    pub first_row: usize,
    /// The matrix in the source, which identifies what the model computes with it.
    pub source: Matrix,
}

/// Why a tensor keeps its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is not a matrix: a norm, a bias, a convolution, `A_log`, `D`, `dt_bias`.
    NotAMatrix,
    /// A router or the gates of a cell: small, but everything depends on it.
    Gate,
    /// Its rows are not whole groups.
    Ragged {
        /// Weights per row.
        cols: usize,
        /// The format that was meant for it.
        format: Format,
    },
    /// It is a parameter without a module's name (Zamba's `x_proj_weight`): the layout has no names for its scales.
    Parameter,
    /// The recipe keeps it.
    Recipe,
}

impl Kept {
    /// A name for tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAMatrix => "not a matrix",
            Self::Gate => "gate",
            Self::Ragged { .. } => "ragged",
            Self::Parameter => "parameter",
            Self::Recipe => "recipe",
        }
    }
}

impl TargetTensor {
    /// The path of its module, which MLX uses as the layer's name in config.json: the name without
    /// `.weight`.
    pub fn path(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }

    /// Number of its weights.
    pub fn weights(&self) -> u64 {
        self.shape.iter().fold(1u64, |n, &dim| n.saturating_mul(dim as u64))
    }

    /// Weights per row.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows, with leading dimensions flattened.
    pub fn rows(&self) -> usize {
        let leading = self.shape.split_last().map(|(_, leading)| leading).unwrap_or_default();
        leading.iter().fold(1usize, |n, &dim| n.saturating_mul(dim))
    }

    /// Its format, if it is quantized.
    pub fn format(&self) -> Option<Format> {
        match self.encoding {
            Encoding::Quantized(format) => Some(format),
            Encoding::Dense(_) => None,
        }
    }

    /// Its size in the new checkpoint in bytes, including scales and biases.
    pub fn bytes(&self) -> u64 {
        self.parts().iter().map(|part| part.bytes()).sum()
    }

    /// Bits per weight.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.weights().max(1) as f64
    }

    /// The tensors that store it: itself, or codes, scales and (in affine mode) biases.
    pub(super) fn parts(&self) -> Vec<Part> {
        let Encoding::Quantized(format) = self.encoding else {
            let (name, shape, dtype) = (self.name.clone(), self.shape.clone(), self.dtype.name());
            return vec![Part { name, shape, dtype, size: self.dtype.size() }];
        };
        let cols = self.cols();
        let scale = format.scale_type(self.dtype);
        let last = |last: usize| {
            let mut shape = self.shape.clone();
            if let Some(dim) = shape.last_mut() {
                *dim = last;
            }
            shape
        };
        let codes = Part {
            name: self.name.clone(),
            shape: last(format.row_bytes(cols) / 4),
            dtype: "U32",
            size: 4,
        };
        let dtype = match scale {
            kinglet_quant::ScaleType::Float(float) => float.name(),
            kinglet_quant::ScaleType::E8M0 | kinglet_quant::ScaleType::E4M3 => "U8",
        };
        let beside = |what: &str| Part {
            name: format!("{}.{what}", self.path()),
            shape: last(format.groups(cols)),
            dtype,
            size: scale.size(),
        };
        let mut parts = vec![codes, beside("scales")];
        if format.mode() == kinglet_quant::Mode::Affine {
            parts.push(beside("biases"));
        }
        parts
    }
}

/// A tensor in a safetensors header.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) dtype: &'static str,
    /// Bytes per element.
    pub(super) size: usize,
}

impl Part {
    pub(super) fn bytes(&self) -> u64 {
        let elements = self.shape.iter().fold(1u64, |n, &dim| n.saturating_mul(dim as u64));
        elements.saturating_mul(self.size as u64)
    }
}
