//! [`Hessian`]: statistics of a linear layer's inputs, which determine its output error.

use crate::FeedbackError;

/// `H = sum_t x_t x_t^T` over input vectors `x_t` of a linear layer. If the weights of an output
/// have the error `e`, the output error is `sum_t (e . x_t)^2 = e^T H e`, so `H` is its second
/// derivative, up to a factor of two.
#[derive(Clone, Debug)]
pub struct Hessian {
    cols: usize,
    count: u64,
    /// `[cols, cols]`; only `j >= i` is valid.
    sums: Vec<f64>,
}

/// Number of input vectors whose products are summed in f32 before they are added to the f64 sums.
const PIECE: usize = 64;

impl Hessian {
    /// Creates a Hessian without inputs. Takes `8 * cols^2` bytes.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(cols: usize) -> Result<Self, FeedbackError> {
        let error = || FeedbackError::Memory { cols };
        let count = cols.checked_mul(cols).ok_or_else(error)?;
        let mut sums = Vec::new();
        sums.try_reserve_exact(count).map_err(|_| error())?;
        sums.resize(count, 0.0);
        Ok(Self { cols, count: 0, sums })
    }

    /// Creates a Hessian from `count` inputs whose products were already summed: `sums`, `[cols,
    /// cols]` (elements left of the diagonal are not read).
    ///
    /// # Errors
    /// If `sums` has a different length.
    pub fn from_sums(cols: usize, count: u64, sums: Vec<f64>) -> Result<Self, FeedbackError> {
        match cols.checked_mul(cols).filter(|&needed| needed == sums.len()) {
            Some(_) => Ok(Self { cols, count, sums }),
            None => {
                let needed = cols.saturating_mul(cols);
                Err(FeedbackError::Length { part: "sums", found: sums.len(), needed })
            }
        }
    }

    /// Number of inputs of the layer.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of input vectors added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds input vectors, `[_, cols]`.
    ///
    /// # Errors
    /// If `inputs` is not whole vectors, or not finite; then nothing is added.
    pub fn add(&mut self, inputs: &[f32]) -> Result<(), FeedbackError> {
        let cols = self.cols;
        if cols == 0 || !inputs.len().is_multiple_of(cols) {
            return Err(FeedbackError::Length {
                part: "inputs",
                found: inputs.len(),
                needed: cols,
            });
        }
        if let Some(at) = inputs.iter().position(|x| !x.is_finite()) {
            return Err(FeedbackError::NotFinite { part: "inputs", column: at % cols });
        }
        let mut sums = vec![0.0f32; cols];
        for piece in inputs.chunks(PIECE * cols) {
            for (i, row) in self.sums.chunks_exact_mut(cols).enumerate() {
                let (row, sums) = (&mut row[i..], &mut sums[i..]);
                sums.fill(0.0);
                for four in piece.chunks(4 * cols) {
                    match four.len() / cols {
                        4 => {
                            let [a, b, c, d] =
                                [0, 1, 2, 3].map(|t| &four[t * cols + i..(t + 1) * cols]);
                            let [xa, xb, xc, xd] = [a[0], b[0], c[0], d[0]];
                            let products = a.iter().zip(b).zip(c.iter().zip(d));
                            for (sum, ((a, b), (c, d))) in sums.iter_mut().zip(products) {
                                *sum += (xa * a + xb * b) + (xc * c + xd * d);
                            }
                        }
                        _ => {
                            for x in four.chunks_exact(cols).map(|x| &x[i..]) {
                                sums.iter_mut().zip(x).for_each(|(sum, y)| *sum += x[0] * y);
                            }
                        }
                    }
                }
                row.iter_mut().zip(sums).for_each(|(total, sum)| *total += f64::from(*sum));
            }
        }
        self.count += (inputs.len() / cols) as u64;
        Ok(())
    }

    /// Adds the inputs of another Hessian.
    ///
    /// # Errors
    /// If the other has a different number of columns.
    pub fn merge(&mut self, other: &Self) -> Result<(), FeedbackError> {
        if self.cols != other.cols {
            let (found, needed) = (other.cols, self.cols);
            return Err(FeedbackError::Length { part: "Hessian", found, needed });
        }
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += other);
        self.count += other.count;
        Ok(())
    }

    /// The mean square of each input: the importance of its column if inputs are uncorrelated
    /// ([`crate::Encoder::search_row`]). Ones if nothing was added.
    pub fn importance(&self) -> Vec<f32> {
        let scale = 1.0 / self.count.max(1) as f64;
        let diagonal = (0..self.cols).map(|i| self.sums[i * self.cols + i]);
        match self.count {
            0 => vec![1.0; self.cols],
            _ => diagonal.map(|sum| (sum * scale) as f32).collect(),
        }
    }

    /// `e^T H e`: the squared error of an output whose weights have the errors `errors`, summed
    /// over the added inputs.
    ///
    /// # Errors
    /// If `errors` is not `cols` long.
    pub fn output_error(&self, errors: &[f32]) -> Result<f64, FeedbackError> {
        if errors.len() != self.cols {
            let (found, needed) = (errors.len(), self.cols);
            return Err(FeedbackError::Length { part: "errors", found, needed });
        }
        let mut sum = 0.0;
        for (i, row) in self.sums.chunks_exact(self.cols).enumerate() {
            let products = row[i..].iter().zip(&errors[i..]).map(|(h, &e)| h * f64::from(e));
            let error = f64::from(errors[i]);
            sum += error * (2.0 * products.sum::<f64>() - row[i] * error);
        }
        Ok(sum.max(0.0))
    }

    /// Its upper triangle, `[cols, cols]`.
    pub(crate) fn sums(&self) -> &[f64] {
        &self.sums
    }

    /// Its upper triangle, `[cols, cols]`, for factoring in place.
    pub(crate) fn into_sums(self) -> Vec<f64> {
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_error_is_that_of_the_outputs() {
        let cols = 9;
        // 70 vectors: a whole piece, and one of six.
        let inputs: Vec<f32> = (0..70 * cols).map(|i| ((i * 31 % 17) as f32 - 8.0) / 4.0).collect();
        let errors: Vec<f32> = (0..cols).map(|i| (i as f32 - 3.5) / 8.0).collect();
        let mut hessian = Hessian::new(cols).unwrap();
        hessian.add(&inputs[..68 * cols]).unwrap();
        let mut other = Hessian::new(cols).unwrap();
        other.add(&inputs[68 * cols..]).unwrap();
        hessian.merge(&other).unwrap();
        assert_eq!(hessian.count(), 70);
        let expected: f32 = inputs
            .chunks(cols)
            .map(|x| x.iter().zip(&errors).map(|(x, e)| x * e).sum::<f32>().powi(2))
            .sum();
        let found = hessian.output_error(&errors).unwrap();
        assert!((found - f64::from(expected)).abs() < 1e-4 * found, "{found} {expected}");
        let third: f32 = inputs.chunks(cols).map(|x| x[3] * x[3]).sum::<f32>() / 70.0;
        assert!((hessian.importance()[3] - third).abs() < 1e-5);
    }

    #[test]
    fn inconsistent_sizes_are_refused() {
        let mut hessian = Hessian::new(4).unwrap();
        assert!(hessian.add(&[0.0; 5]).is_err());
        assert!(hessian.add(&[0.0, 1.0, f32::NAN, 0.0]).is_err());
        assert!(hessian.merge(&Hessian::new(5).unwrap()).is_err());
        assert!(hessian.output_error(&[0.0; 3]).is_err());
        assert!(Hessian::new(usize::MAX).is_err());
        assert_eq!(hessian.importance(), [1.0; 4]);
    }
}
