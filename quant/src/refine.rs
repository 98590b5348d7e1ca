//! [`Refinement`]: improves encoded rows one code and one scale at a time.
//!
//! [`crate::Feedback`] never goes back: it chooses a code before those to its right, and a group's
//! scale before its codes. Once all are known, the output error `d^T H d` of a row (`d` is the
//! error of its weights) is a quadratic function of each of them, with a known minimum: for a
//! weight, at a distance of `(H d)_i / H_ii`; for a group's scale and bias, at the solution of two
//! linear equations. Each in turn is moved to the nearest value of the format if that lowers the
//! error, so no row gets worse on the given inputs.
//!
//! How well this generalizes depends on the number of inputs. With ten or more per column and
//! correlated inputs, two sweeps after [`crate::Feedback`] lower the output error on unseen inputs
//! by another 5 to 30 %. With fewer, nearly uncorrelated inputs it overfits.
//!
//! Source: coordinate descent for quantization as in Behdin et al., "QuantEase: Optimization-based
//! Quantization for Language Models", 2023; the step for scales is new here.

use crate::blocks::unpack;
use crate::encode::{MAX_GROUP, Scaling, check_finite, pack};
use crate::search::Grid;
use crate::triangle::subtract_product;
use crate::{EncodeError, Encoder, FeedbackError, Hessian, Mode, RowMut, ScaleType, decode};

/// Rows whose `H d` is computed together.
const ROWS: usize = 16;

/// Improves encoded rows of a layer with known inputs.
#[derive(Clone, Debug)]
pub struct Refinement {
    cols: usize,
    /// `[cols, cols]`, symmetric.
    hessian: Vec<f32>,
}

impl Refinement {
    /// Prepares a layer with these inputs; `damping` as in [`crate::Feedback::new`]. Takes `4 n^2`
    /// bytes.
    ///
    /// # Errors
    /// If `damping` is not positive, the Hessian is not finite, or memory is short.
    pub fn new(hessian: &Hessian, damping: f64) -> Result<Self, FeedbackError> {
        let cols = hessian.cols();
        if !(damping > 0.0 && damping.is_finite()) {
            return Err(FeedbackError::Damping { damping });
        }
        let sums = hessian.sums();
        if let Some(at) = sums.iter().position(|sum| !sum.is_finite()) {
            return Err(FeedbackError::NotFinite {
                part: "squared inputs",
                column: at / cols.max(1),
            });
        }
        let mean = sums.iter().step_by(cols + 1).sum::<f64>() / cols.max(1) as f64;
        let (scale, floor) = if mean > 0.0 { (1.0 / mean, damping) } else { (0.0, 1.0) };
        let mut full = Vec::new();
        full.try_reserve_exact(sums.len()).map_err(|_| FeedbackError::Memory { cols })?;
        full.resize(sums.len(), 0.0f32);
        for i in 0..cols {
            for j in i..cols {
                let value = sums[i * cols + j] * scale + if i == j { floor } else { 0.0 };
                full[i * cols + j] = value as f32;
                full[j * cols + i] = value as f32;
            }
        }
        Ok(Self { cols, hessian: full })
    }

    /// Improves encoded rows of `weights`, `[rows.len(), cols]`, in `sweeps` passes over all
    /// columns; one or two passes do most. Different rows may be refined on different threads;
    /// several rows per call are faster.
    ///
    /// # Errors
    /// If the parts are inconsistent or a weight is not finite.
    pub fn refine_rows(
        &self,
        encoder: &Encoder,
        weights: &[f32],
        rows: &mut [RowMut<'_>],
        sweeps: usize,
    ) -> Result<(), FeedbackError> {
        let cols = self.cols;
        let needed = rows.len().saturating_mul(cols);
        if weights.len() != needed {
            let found = weights.len();
            return Err(FeedbackError::Length { part: "weights", found, needed });
        }
        rows.iter().try_for_each(|row| encoder.check(cols, row))?;
        if cols == 0 {
            return Ok(());
        }
        let mut slopes = Vec::new();
        for (weights, rows) in weights.chunks(ROWS * cols).zip(rows.chunks_mut(ROWS)) {
            let mut errors = Vec::with_capacity(weights.len());
            let mut encoded = Vec::with_capacity(rows.len());
            for (weights, row) in weights.chunks(cols).zip(rows.iter()) {
                check_finite(weights, 0)?;
                let row = Encoded::read(encoder, row, cols);
                // Negated, because products are subtracted.
                let values = row.values(encoder.format().group());
                errors.extend(values.zip(weights).map(|(value, weight)| value - weight));
                encoded.push(row);
            }
            slopes.clear();
            slopes.resize(weights.len(), 0.0f32);
            let hessian = (&self.hessian[..], cols);
            subtract_product((&mut slopes, cols), (&errors, cols), hessian, [cols, cols]);
            let parts = encoded.iter_mut().zip(slopes.chunks_mut(cols)).zip(rows);
            for ((row, slopes), out) in parts {
                for _ in 0..sweeps {
                    self.sweep(encoder, row, slopes);
                }
                row.write(encoder, out)?;
            }
        }
        Ok(())
    }

    /// One pass over all columns of a row; `slopes` is `H d`, where `d` is the weights minus their
    /// values.
    fn sweep(&self, encoder: &Encoder, row: &mut Encoded, slopes: &mut [f32]) {
        let (cols, group) = (self.cols, encoder.format().group());
        for (index, codes) in row.codes.chunks_mut(group).enumerate() {
            let start = index * group;
            let scaling = row.scalings[index];
            let grid = encoder.grid(scaling);
            for (i, code) in (start..).zip(codes.iter_mut()) {
                let line = &self.hessian[i * cols..(i + 1) * cols];
                let value = grid.value(*code);
                let better = grid.nearest(value + slopes[i] / line[i]);
                let change = grid.value(better) - value;
                // The change of the error is this times -change: the nearest value is better,
                // except for rounding.
                let gain = 2.0 * slopes[i] - change * line[i];
                if better != *code && change.is_finite() && change * gain > 0.0 {
                    *code = better;
                    slopes.iter_mut().zip(line).for_each(|(slope, h)| *slope -= change * h);
                }
            }
            if let Scaling::Affine { scale, bias } = scaling
                && let Some((scale_change, bias_change)) =
                    self.fit(encoder, start, codes, slopes, [scale, bias])
            {
                row.scalings[index] =
                    Scaling::Affine { scale: scale + scale_change, bias: bias + bias_change };
                let mut changes = [0.0f32; MAX_GROUP];
                for (change, &code) in changes.iter_mut().zip(codes.iter()) {
                    *change = scale_change * f32::from(code) + bias_change;
                }
                let lines = (&self.hessian[start * cols..], cols);
                subtract_product((slopes, cols), (&changes, MAX_GROUP), lines, [group, cols]);
            }
        }
    }

    /// The best changes of a group's scale and bias such that both remain values of their type;
    /// `None` if nothing is gained.
    fn fit(
        &self,
        encoder: &Encoder,
        start: usize,
        codes: &[u8],
        slopes: &[f32],
        [scale, bias]: [f32; 2],
    ) -> Option<(f32, f32)> {
        // For changes s and b the error changes by -2 (s u + b v) + s^2 qq + 2 s b q1 + b^2 ones.
        let [mut qq, mut q1, mut ones, mut u, mut v] = [0.0f64; 5];
        for (i, &code) in (start..).zip(codes) {
            let line = &self.hessian[i * self.cols + start..i * self.cols + start + codes.len()];
            let with_codes = line.iter().zip(codes).map(|(h, &c)| h * f32::from(c)).sum::<f32>();
            let with_ones = line.iter().sum::<f32>();
            let (code, slope) = (f64::from(code), f64::from(slopes[i]));
            qq += code * f64::from(with_codes);
            q1 += code * f64::from(with_ones);
            ones += f64::from(with_ones);
            u += code * slope;
            v += slope;
        }
        let determinant = qq * ones - q1 * q1;
        // All codes are equal: no scale can be fitted.
        if determinant.is_nan() || determinant <= 1e-9 * qq * ones {
            return None;
        }
        let float = encoder.float();
        let exact = f64::from(scale) + (u * ones - v * q1) / determinant;
        let new_scale = float.round(exact as f32);
        let s = f64::from(new_scale) - f64::from(scale);
        // The best bias for the rounded scale.
        let new_bias = float.round((f64::from(bias) + (v - s * q1) / ones) as f32);
        let b = f64::from(new_bias) - f64::from(bias);
        let change = -2.0 * (s * u + b * v) + s * s * qq + 2.0 * s * b * q1 + b * b * ones;
        // f32 must hold the changes exactly, else they would not lead to these values.
        let (s, b) = (s as f32, b as f32);
        let exact = scale + s == new_scale && bias + b == new_bias;
        (change < 0.0 && exact && new_scale != 0.0 && s.is_finite() && b.is_finite())
            .then_some((s, b))
    }
}

/// An unpacked row.
struct Encoded {
    codes: Vec<u8>,
    scalings: Vec<Scaling>,
    grids: Vec<Grid>,
}

impl Encoded {
    fn read(encoder: &Encoder, row: &RowMut<'_>, cols: usize) -> Self {
        let format = encoder.format();
        let mut values = vec![0.0; cols];
        unpack(row.codes, format.bits(), &mut values, f32::from);
        // Integers below 256.
        let codes = values.into_iter().map(|value| value as u8).collect();
        let scalings: Vec<Scaling> = match (format.mode(), format.scale_type(encoder.float())) {
            (Mode::Affine, ScaleType::Float(float)) => {
                let floats = |bytes: &[u8]| {
                    let mut floats = vec![0.0; bytes.len() / float.size()];
                    // The length was checked.
                    let decoded = decode(float, bytes, &mut floats);
                    debug_assert!(decoded.is_ok());
                    floats
                };
                let parts = floats(row.scales).into_iter().zip(floats(row.biases));
                parts.map(|(scale, bias)| Scaling::Affine { scale, bias }).collect()
            }
            _ => row.scales.iter().map(|&code| Scaling::Code(code)).collect(),
        };
        let grids = scalings.iter().map(|&scaling| encoder.grid(scaling)).collect();
        Self { codes, scalings, grids }
    }

    /// The weights of the row before it is changed.
    fn values(&self, group: usize) -> impl Iterator<Item = f32> {
        let groups = self.codes.chunks(group).zip(&self.grids);
        groups.flat_map(|(codes, grid)| codes.iter().map(|&code| grid.value(code)))
    }

    fn write(&self, encoder: &Encoder, out: &mut RowMut<'_>) -> Result<(), EncodeError> {
        let (group, bits) = (encoder.format().group(), encoder.format().bits());
        let packed = out.codes.chunks_exact_mut(group * bits / 8);
        for (codes, packed) in self.codes.chunks(group).zip(packed) {
            pack(codes, bits, packed);
        }
        let mut scalings = self.scalings.iter().enumerate();
        scalings
            .try_for_each(|(index, &scaling)| encoder.store(index, scaling, out.scales, out.biases))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::tests::{COLS, inputs, output_error, uniform};
    use crate::{DType, Feedback, Format, Quantized};

    const COUNT: usize = 24;

    #[test]
    fn encoded_rows_improve_on_unseen_inputs() {
        let mut seen = Hessian::new(COLS).unwrap();
        seen.add(&inputs(2500, 6)).unwrap();
        let mut unseen = Hessian::new(COLS).unwrap();
        unseen.add(&inputs(700, 77)).unwrap();
        let feedback = Feedback::new(seen.clone(), 0.01).unwrap();
        let refinement = Refinement::new(&seen, 0.01).unwrap();
        let mut next = uniform(8);
        let weights: Vec<f32> = (0..COUNT * COLS).map(|_| next() + next() + next()).collect();
        let affine = |bits, group| Format::affine(bits, group).unwrap();
        for format in [
            affine(2, 128),
            affine(4, 64),
            affine(8, 32),
            Format::MXFP4,
            Format::MXFP8,
            Format::NVFP4,
        ] {
            for float in [DType::F32, DType::BF16] {
                let encoder = Encoder::new(format, float);
                let mut before = Quantized::zeroed(format, float, [COUNT, COLS]).unwrap();
                let mut rows: Vec<RowMut<'_>> = before.rows_mut().collect();
                feedback.encode_rows(&encoder, &weights, &mut rows).unwrap();
                let mut after = before.clone();
                let mut rows: Vec<RowMut<'_>> = after.rows_mut().collect();
                refinement.refine_rows(&encoder, &weights, &mut rows, 2).unwrap();
                let error = |m: &Quantized| output_error(&unseen, m, &weights);
                let (before, after) = (error(&before), error(&after));
                assert!(after < 0.9 * before, "{format} {float}: {before} became {after}");
            }
        }
    }

    #[test]
    fn no_row_gets_worse_with_any_sweep() {
        // Fewer inputs than columns put the minimum far away; little damping, since it is not part
        // of the error.
        let mut hessian = Hessian::new(COLS).unwrap();
        hessian.add(&inputs(100, 6)).unwrap();
        let refinement = Refinement::new(&hessian, 1e-6).unwrap();
        let mut next = uniform(9);
        let weights: Vec<f32> = (0..COUNT * COLS).map(|_| next() + next()).collect();
        for format in [Format::affine(3, 32).unwrap(), Format::MXFP8, Format::NVFP4] {
            let encoder = Encoder::new(format, DType::F16);
            for weights in weights.chunks(COLS) {
                let mut matrix = Quantized::zeroed(format, DType::F16, [1, COLS]).unwrap();
                matrix
                    .rows_mut()
                    .for_each(|mut row| encoder.encode_row(weights, &mut row).unwrap());
                let mut before = output_error(&hessian, &matrix, weights);
                for sweep in 0..4 {
                    let mut rows: Vec<RowMut<'_>> = matrix.rows_mut().collect();
                    refinement.refine_rows(&encoder, weights, &mut rows, 1).unwrap();
                    let after = output_error(&hessian, &matrix, weights);
                    assert!(after <= before * 1.001, "{format} {sweep}: {before} became {after}");
                    before = after;
                }
            }
        }
    }

    #[test]
    fn without_sweeps_nothing_changes() {
        let refinement = Refinement::new(&Hessian::new(COLS).unwrap(), 0.01).unwrap();
        for format in [Format::affine(5, 64).unwrap(), Format::NVFP4] {
            let encoder = Encoder::new(format, DType::BF16);
            let mut next = uniform(2);
            let weights: Vec<f32> = (0..COLS).map(|_| next()).collect();
            let mut matrix = Quantized::zeroed(format, DType::BF16, [1, COLS]).unwrap();
            matrix.rows_mut().for_each(|mut row| encoder.encode_row(&weights, &mut row).unwrap());
            let before = matrix.clone();
            let mut rows: Vec<RowMut<'_>> = matrix.rows_mut().collect();
            refinement.refine_rows(&encoder, &weights, &mut rows, 0).unwrap();
            assert_eq!(matrix, before);
            let mut rows: Vec<RowMut<'_>> = matrix.rows_mut().collect();
            assert!(refinement.refine_rows(&encoder, &weights[1..], &mut rows, 1).is_err());
        }
        assert!(Refinement::new(&Hessian::new(8).unwrap(), f64::NAN).is_err());
    }
}
