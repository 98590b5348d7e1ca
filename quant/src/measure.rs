//! [`ErrorMeasure`]: the difference between decoded weights and the originals.

use std::fmt;

/// The error of a tensor's decoded weights, accumulated piece by piece. `Display` prints the two
/// most useful figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorMeasure {
    count: u64,
    squares: f64,
    error: f64,
    error_squares: f64,
    largest: f64,
    largest_error: f64,
}

impl ErrorMeasure {
    /// A measure without any weights.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds weights and their decoded values. If one slice is longer, its rest is ignored.
    pub fn add(&mut self, weights: &[f32], decoded: &[f32]) {
        for (&weight, &decoded) in weights.iter().zip(decoded) {
            let (weight, decoded) = (f64::from(weight), f64::from(decoded));
            let error = decoded - weight;
            self.squares += weight * weight;
            self.error += error;
            self.error_squares += error * error;
            self.largest = self.largest.max(weight.abs());
            self.largest_error = self.largest_error.max(error.abs());
        }
        self.count += weights.len().min(decoded.len()) as u64;
    }

    /// Adds another measure, from another thread or tensor.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.squares += other.squares;
        self.error += other.error;
        self.error_squares += other.error_squares;
        self.largest = self.largest.max(other.largest);
        self.largest_error = self.largest_error.max(other.largest_error);
    }

    /// Number of weights measured.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Root of the mean squared weight.
    pub fn weight_rms(&self) -> f64 {
        (self.squares / self.count.max(1) as f64).sqrt()
    }

    /// Root of the mean squared error.
    pub fn rms(&self) -> f64 {
        (self.error_squares / self.count.max(1) as f64).sqrt()
    }

    /// [`Self::rms`] relative to [`Self::weight_rms`]; 0 if there is no error, infinite if all
    /// weights are zero and there is one.
    pub fn relative_rms(&self) -> f64 {
        if self.error_squares == 0.0 { 0.0 } else { (self.error_squares / self.squares).sqrt() }
    }

    /// Signal-to-noise ratio in decibels, `-20 log10` of [`Self::relative_rms`]; infinite if there
    /// is no error.
    pub fn decibels(&self) -> f64 {
        -20.0 * self.relative_rms().log10()
    }

    /// The mean error, the bias of a sum over many weights.
    pub fn mean(&self) -> f64 {
        self.error / self.count.max(1) as f64
    }

    /// The largest magnitude of an error.
    pub fn largest_error(&self) -> f64 {
        self.largest_error
    }

    /// The largest magnitude of a weight.
    pub fn largest_weight(&self) -> f64 {
        self.largest
    }
}

impl fmt::Display for ErrorMeasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (relative, largest) = (100.0 * self.relative_rms(), self.largest_error);
        write!(f, "error {relative:.3} % rms, at most {largest:.2e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_weights() {
        let mut measure = ErrorMeasure::new();
        measure.add(&[3.0, -4.0], &[3.5, -4.5]);
        assert_eq!(measure.rms(), 0.5);
        assert_eq!(measure.mean(), 0.0);
        assert_eq!(measure.largest_error(), 0.5);
        assert_eq!(measure.largest_weight(), 4.0);
        assert_eq!(measure.weight_rms(), 12.5f64.sqrt());
        assert!((measure.relative_rms() - 0.5 / 12.5f64.sqrt()).abs() < 1e-15);
        assert!((measure.decibels() - 10.0 * (12.5f64 / 0.25).log10()).abs() < 1e-12);
        assert_eq!(measure.to_string(), "error 14.142 % rms, at most 5.00e-1");
    }

    #[test]
    fn parts_add_up() {
        let (mut all, mut first, mut second) = Default::default();
        let pieces: [(&mut ErrorMeasure, _); 2] =
            [(&mut first, [1.0, 2.0]), (&mut second, [-3.0, 0.5])];
        for (measure, weights) in pieces {
            measure.add(&weights, &[1.5, 1.5]);
            ErrorMeasure::add(&mut all, &weights, &[1.5, 1.5]);
        }
        first.merge(&second);
        assert_eq!(first, all);
        assert_eq!(all.count(), 4);
    }

    #[test]
    fn nothing_and_no_error_are_zero() {
        let mut measure = ErrorMeasure::new();
        assert_eq!((measure.rms(), measure.relative_rms(), measure.mean()), (0.0, 0.0, 0.0));
        measure.add(&[1.0, 0.0], &[1.0, 0.0]);
        assert_eq!(measure.relative_rms(), 0.0);
        assert_eq!(measure.decibels(), f64::INFINITY);
    }
}
