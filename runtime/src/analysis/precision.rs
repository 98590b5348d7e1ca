//! [`PrecisionSize`]: the size of a model's weights in some precision.

use std::collections::HashSet;

use kinglet_models::{ModelSpec, Precision, Role, TensorSpec};
use kinglet_quant::{DType, Format};

use crate::weights::{Encoding, Weights};

/// A precision of a model's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightPrecision {
    /// All tensors in one type.
    Dense(DType),
    /// Matrices in this format; the rest as it is stored.
    Quantized(Format),
}

/// The size of a model's weights in some precision, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrecisionSize {
    /// Matrices in the precision asked for, with their scales and biases.
    pub matrices: u64,
    /// What keeps its type: norms, convolutions and the like, routers and gates, and matrices whose rows are not whole groups.
    pub kept: u64,
}

impl PrecisionSize {
    /// Both.
    pub fn total(&self) -> u64 {
        self.matrices.saturating_add(self.kept)
    }

    /// The size of `spec` in `precision`, as `kinglet::quantize` writes it. Tensors that keep their type have that of `weights`, or
    /// bf16 if there are none or they are codes.
    pub fn of(spec: &ModelSpec, weights: Option<&Weights>, precision: WeightPrecision) -> Self {
        let free = free_tensors(spec);
        let mut size = Self::default();
        for tensor in spec.tensors() {
            let elements = tensor.elements() as u64;
            let stored = stored_type(tensor, weights);
            let bytes = |dtype: DType| elements.saturating_mul(dtype.size() as u64);
            let cols = tensor.shape.last().copied().unwrap_or(0);
            let (bytes, converted) = match precision {
                WeightPrecision::Dense(dtype) => {
                    (bytes(dtype), free.contains(tensor.name.as_str()))
                }
                WeightPrecision::Quantized(format)
                    if free.contains(tensor.name.as_str()) && format.check_cols(cols).is_ok() =>
                {
                    let scale = format.scale_type(stored).size();
                    let biases = usize::from(format.mode() == kinglet_quant::Mode::Affine);
                    let row = format.row_bytes(cols) + format.groups(cols) * scale * (1 + biases);
                    ((elements / cols.max(1) as u64).saturating_mul(row as u64), true)
                }
                WeightPrecision::Quantized(_) => (bytes(stored), false),
            };
            let sum = if converted { &mut size.matrices } else { &mut size.kept };
            *sum = sum.saturating_add(bytes);
        }
        size
    }
}

/// The type of a tensor's elements, or of its scales.
fn stored_type(tensor: &TensorSpec, weights: Option<&Weights>) -> DType {
    let stored = weights.and_then(|weights| weights.stored(tensor).ok());
    match stored.map(|stored| stored.encoding) {
        Some(Encoding::Dense(dtype)) => dtype,
        Some(Encoding::Quantized(_)) | None => DType::BF16,
    }
}

/// Names of the tensors that may be quantized: those with a matrix whose role is free.
fn free_tensors(spec: &ModelSpec) -> HashSet<&str> {
    let outside =
        [(Role::Embedding, &spec.embedding.table), (Role::Head, &spec.head.linear.weight)];
    let mut free: HashSet<&str> = HashSet::new();
    let is_free = |role: Role, tensor: &TensorSpec| {
        role.precision() == Precision::Free && tensor.shape.len() > 1
    };
    for (role, matrix) in outside {
        if is_free(role, &matrix.tensor) {
            free.insert(&matrix.tensor.name);
        }
    }
    for branch in spec.blocks.iter().flat_map(|block| &block.branches) {
        for part in branch.mixer.parts() {
            if let Some(matrix) = part.held.matrix()
                && is_free(part.role, &matrix.tensor)
            {
                free.insert(&matrix.tensor.name);
            }
        }
    }
    free
}
