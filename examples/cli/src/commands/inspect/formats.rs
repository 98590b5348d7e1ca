//! Formats of the stored tensors, and each format's share of the model.

use kinglet::models::ModelSpec;
use kinglet::weights::{Weights, WeightsError};

/// A tensor that the model needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoredRow {
    pub(super) name: String,
    /// Shape of the decoded tensor.
    pub(super) shape: Vec<usize>,
    /// `BF16`, or a quantized format.
    pub(super) format: String,
    pub(super) weights: u64,
    /// Includes scales and biases.
    pub(super) bytes: u64,
}

impl StoredRow {
    pub(super) fn bits_per_weight(&self) -> f64 {
        bits_per_weight(self.bytes, self.weights)
    }
}

/// All tensors of one format.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FormatTotal {
    pub(super) format: String,
    pub(super) tensors: usize,
    pub(super) weights: u64,
    pub(super) bytes: u64,
}

impl FormatTotal {
    pub(super) fn bits_per_weight(&self) -> f64 {
        bits_per_weight(self.bytes, self.weights)
    }
}

/// Every tensor that `spec` needs, in order of use.
pub(super) fn rows(spec: &ModelSpec, weights: &Weights) -> Result<Vec<StoredRow>, WeightsError> {
    let row = |tensor: &kinglet::models::TensorSpec| {
        let stored = weights.stored(tensor)?;
        Ok(StoredRow {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            format: stored.encoding.to_string(),
            weights: tensor.elements() as u64,
            bytes: stored.bytes,
        })
    };
    spec.tensors().into_iter().map(row).collect()
}

/// The formats of `rows`, those with the most bytes first.
pub(super) fn totals(rows: &[StoredRow]) -> Vec<FormatTotal> {
    let mut totals: Vec<FormatTotal> = Vec::new();
    for row in rows {
        let at = totals.iter().position(|total| total.format == row.format).unwrap_or_else(|| {
            let format = row.format.clone();
            totals.push(FormatTotal { format, tensors: 0, weights: 0, bytes: 0 });
            totals.len() - 1
        });
        if let Some(total) = totals.get_mut(at) {
            total.tensors += 1;
            total.weights += row.weights;
            total.bytes += row.bytes;
        }
    }
    totals.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.format.cmp(&b.format)));
    totals
}

/// Bits per weight of all rows together.
pub(super) fn effective_bits(rows: &[StoredRow]) -> f64 {
    let sum = |of: fn(&StoredRow) -> u64| rows.iter().map(of).sum();
    bits_per_weight(sum(|row| row.bytes), sum(|row| row.weights))
}

fn bits_per_weight(bytes: u64, weights: u64) -> f64 {
    8.0 * bytes as f64 / weights.max(1) as f64
}
