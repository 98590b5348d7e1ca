//! [`Report`]: sizes and errors of what was written, tensor by tensor.

use std::time::Duration;

use kinglet_quant::ErrorMeasure;

use super::target::TargetTensor;

/// The result of [`Job::write`](super::Job::write).
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the method.
    pub method: String,
    /// All tensors, in order of use.
    pub tensors: Vec<TensorReport>,
    /// Size of the source's tensors, in bytes.
    pub source_bytes: u64,
    /// Names and sizes of the files with weights.
    pub files: Vec<(String, u64)>,
    /// Names of the files that were copied.
    pub copied: Vec<String>,
    /// Files that belong to the checkpoint but could not be copied, each with the problem.
    pub left_out: Vec<(String, String)>,
    /// Time taken.
    pub elapsed: Duration,
}

/// One tensor of the new checkpoint.
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// The tensor that was written.
    pub tensor: TargetTensor,
    /// The error of its decoded weights compared with the source, if it is quantized.
    pub measure: Option<ErrorMeasure>,
}

impl Report {
    /// Size of all tensors, in bytes.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|report| report.tensor.bytes()).fold(0, u64::saturating_add)
    }

    /// Number of weights in all tensors.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().map(|report| report.tensor.weights()).fold(0, u64::saturating_add)
    }

    /// Bits per weight of the whole checkpoint, including scales, biases and tensors kept as they
    /// are.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes() as f64 / self.weights().max(1) as f64
    }

    /// The error over all quantized weights.
    pub fn measure(&self) -> ErrorMeasure {
        let mut sum = ErrorMeasure::new();
        for measure in self.tensors.iter().filter_map(|report| report.measure.as_ref()) {
            sum.merge(measure);
        }
        sum
    }
}
