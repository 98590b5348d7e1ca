//! [`Values`]: the weights of a plan as `f64`, whatever their storage type.

use kinglet::models::{self as spec, Matrix, TensorSpec};
use kinglet::weights::{Weights, WeightsError};

use super::math::{dot, layer_norm, plain_norm, silu};

/// Reads weights.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a>(pub &'a Weights);

fn read<T>(result: Result<T, WeightsError>, name: &str) -> T {
    result.unwrap_or_else(|e| panic!("{name}: {e}"))
}

impl Values<'_> {
    /// A small tensor.
    pub fn vector(&self, tensor: &TensorSpec) -> Vec<f64> {
        let values = read(self.0.vector(tensor), &tensor.name);
        values.into_iter().map(f64::from).collect()
    }

    /// A row of a matrix, with codes decoded.
    pub fn row(&self, matrix: &Matrix, row: usize) -> Vec<f64> {
        self.rows(matrix, row..row + 1)
    }

    fn rows(&self, matrix: &Matrix, rows: std::ops::Range<usize>) -> Vec<f64> {
        let name = &matrix.tensor.name;
        let data = read(self.0.matrix(matrix), name);
        let mut row = vec![0.0f32; matrix.cols];
        let mut values = Vec::with_capacity(rows.len() * matrix.cols);
        for index in rows {
            read(data.decode_row(index, &mut row), name);
            values.extend(row.iter().map(|&x| f64::from(x)));
        }
        values
    }

    /// A matrix without a bias.
    pub fn matrix(&self, matrix: &Matrix) -> Linear {
        let (rows, cols) = (matrix.rows, matrix.cols);
        Linear { weight: self.rows(matrix, 0..rows), bias: None, scale: 1.0, rows, cols }
    }

    /// A matrix and its bias.
    pub fn linear(&self, linear: &spec::Linear) -> Linear {
        let Matrix { row_offset: first, rows, .. } = linear.weight;
        let bias = linear.bias.as_ref().map(|bias| match self.vector(bias) {
            own if own.len() == rows => own,
            all => all[first..first + rows].to_vec(),
        });
        Linear { bias, scale: linear.scale.into(), ..self.matrix(&linear.weight) }
    }

    /// A norm.
    pub fn norm(&self, norm: &spec::Norm) -> Norm {
        let bias = norm.bias.as_ref().map(|bias| self.vector(bias));
        let weight = self.vector(&norm.weight);
        let weight = weight.into_iter().map(|w| f64::from(norm.offset) + w).collect();
        Norm { weight, bias, eps: norm.eps, scale: norm.scale.into(), centred: norm.centred }
    }

    /// A norm, or the identity without one.
    pub fn before(&self, norm: Option<&spec::Norm>) -> impl Fn(&[f64]) -> Vec<f64> {
        let norm = norm.map(|norm| self.norm(norm));
        move |x| norm.as_ref().map_or(x.to_vec(), |norm| norm.apply(x))
    }

    /// A convolution.
    pub fn conv(&self, conv: &spec::Conv) -> Conv {
        let bias = conv.bias.as_ref().map(|bias| self.vector(bias));
        Conv { weight: self.vector(&conv.weight), bias, kernel: conv.kernel }
    }
}

/// A matrix `[rows, cols]` with an optional bias, and the factor on the result.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Row-major.
    pub weight: Vec<f64>,
    /// `[rows]`.
    pub bias: Option<Vec<f64>>,
    /// Factor on the result.
    pub scale: f64,
    /// Outputs.
    pub rows: usize,
    /// Number of inputs.
    pub cols: usize,
}

impl Linear {
    /// `scale * (W x + b)`.
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.cols);
        let row = |r: usize| {
            let row = &self.weight[r * self.cols..][..self.cols];
            let bias = self.bias.as_ref().map_or(0.0, |bias| bias[r]);
            self.scale * (bias + dot(row, x))
        };
        (0..self.rows).map(row).collect()
    }
}

/// RMS norm or layer norm with its weight and bias.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[width]`.
    pub weight: Vec<f64>,
    /// `[width]`.
    pub bias: Option<Vec<f64>>,
    /// Added to the mean square.
    pub eps: f32,
    /// Factor on the result.
    pub scale: f64,
    /// Whether the mean is subtracted first.
    pub centred: bool,
}

impl Norm {
    /// `scale * (x / sqrt(mean(x^2) + eps) * weight + bias)`, of `x - mean(x)` if it is centred.
    pub fn apply(&self, x: &[f64]) -> Vec<f64> {
        let bias = |i: usize| self.bias.as_ref().map_or(0.0, |bias| bias[i]);
        let normed = if self.centred { layer_norm(x, self.eps) } else { plain_norm(x, self.eps) };
        let pairs = normed.iter().zip(&self.weight).enumerate();
        pairs.map(|(i, (x, w))| self.scale * (x * w + bias(i))).collect()
    }
}

/// Depthwise causal convolution of a whole sequence `[T, channels]`.
#[derive(Clone, Debug)]
pub struct Conv {
    /// `[channels, kernel]`.
    pub weight: Vec<f64>,
    /// `[channels]`.
    pub bias: Option<Vec<f64>>,
    /// Number of taps.
    pub kernel: usize,
}

impl Conv {
    /// The convolution, then SiLU.
    pub fn apply(&self, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        self.sums(x).into_iter().map(|row| row.into_iter().map(silu).collect()).collect()
    }

    /// `y_t[c] = b[c] + sum_k w[c,k] x_{t-K+1+k}[c]`.
    pub fn sums(&self, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let channels = self.weight.len() / self.kernel;
        let one = |t: usize, c: usize| {
            let mut sum = self.bias.as_ref().map_or(0.0, |bias| bias[c]);
            for k in 0..self.kernel {
                // Tokens before the first count as zeros.
                if let Some(past) = (t + 1 + k).checked_sub(self.kernel) {
                    sum += self.weight[c * self.kernel + k] * x[past][c];
                }
            }
            sum
        };
        (0..x.len()).map(|t| (0..channels).map(|c| one(t, c)).collect()).collect()
    }
}
