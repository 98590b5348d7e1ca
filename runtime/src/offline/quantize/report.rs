//! What came of it: sizes and errors, tensor by tensor.

use std::time::Duration;

use kinglet_quant::ErrorMeasure;

use super::target::TargetTensor;

/// What [`Job::write`](super::Job::write) wrote.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the method.
    pub method: String,
    /// All tensors, in order of use.
    pub tensors: Vec<TensorReport>,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Names and sizes of the files with weights.
    pub files: Vec<(String, u64)>,
    /// Names of the files that were taken along.
    pub copied: Vec<String>,
    /// Files that belong to the checkpoint and could not be taken along, each with what is wrong with it.
    pub left_out: Vec<(String, String)>,
    /// How long it took.
    pub elapsed: Duration,
}

/// One tensor of the new checkpoint.
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// What was written.
    pub tensor: TargetTensor,
    /// How far its decoded weights are from those of the source, if it is quantized.
    pub measure: Option<ErrorMeasure>,
}

impl Report {
    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|report| report.tensor.bytes()).fold(0, u64::saturating_add)
    }

    /// Weights of all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|report| report.tensor.weights()).fold(0, u64::saturating_add)
    }

    /// Bits per weight of the whole checkpoint: scales, biases and what is kept included.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.weights().max(1) as f64
    }

    /// The error of all quantized weights together.
    pub fn measure(&self) -> ErrorMeasure {
        let mut sum = ErrorMeasure::new();
        for measure in self.tensors.iter().filter_map(|report| report.measure.as_ref()) {
            sum.merge(measure);
        }
        sum
    }
}
