//! [`Feedback`]: encoding with error feedback, so that the errors of a row's weights cancel in its output.
//!
//! Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022.
//! A row's columns are encoded from left to right. The error in column `i` changes the output by
//! `e_i x_i`; as far as later inputs are correlated with `x_i`, their weights can compensate. With
//! `H = sum x x^T` and `H^-1 = U^T U`, `U` upper triangular (the Cholesky factor of the inverse),
//! the best correction of the columns `j > i` is `w_j -= (w_i - q_i) / U_ii * U_ij`, and the
//! remaining output error is the sum of `((w_i - q_i) / U_ii)^2`. So `1 / U_ii^2` is the importance
//! for the search of a group's scale and bias, on the weights as corrected when the group begins.
//!
//! Rows are independent. Corrections within a block of columns are made at once, those to its right
//! once per block.

use std::fmt;

use crate::encode::{MAX_GROUP, check_finite, pack};
use crate::triangle::{cholesky, invert, subtract_product};
use crate::{EncodeError, Encoder, Hessian, RowMut};

/// Columns of a block; a multiple of every group size.
const BLOCK: usize = 128;
/// Rows that are corrected together, so that the factor is read once for all of them.
const ROWS: usize = 16;

/// An invalid Hessian, or invalid input to encode with it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FeedbackError {
    /// Out of memory for a matrix of the inputs.
    Memory {
        /// Number of inputs.
        cols: usize,
    },
    /// A part has the wrong length.
    Length {
        /// Name of the part.
        part: &'static str,
        /// Its number of elements.
        found: usize,
        /// Required number of elements; for inputs, a divisor of the number.
        needed: usize,
    },
    /// An input is NaN or infinite, or so large that its square overflows.
    NotFinite {
        /// Name of the numbers.
        part: &'static str,
        /// Column of the number.
        column: usize,
    },
    /// The damping is not a positive number.
    Damping {
        /// The damping.
        damping: f64,
    },
    /// The damped Hessian is numerically not positive definite.
    NotPositive {
        /// Column at which this was detected.
        column: usize,
        /// The damping that was used.
        damping: f64,
    },
    /// A row cannot be encoded.
    Encode(EncodeError),
}

impl fmt::Display for FeedbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { cols } => {
                write!(f, "can't allocate a matrix of {cols} by {cols} inputs")
            }
            Self::Length { part, found, needed } => {
                write!(f, "{part} of {found} where {needed} are needed")
            }
            Self::NotFinite { part, column } => {
                write!(
                    f,
                    "the {part} of column {column} are not finite, or too large to be squared"
                )
            }
            Self::Damping { damping } => {
                write!(f, "the damping is {damping}: it must be positive; 0.01 is usual")
            }
            Self::NotPositive { column, damping } => write!(
                f,
                "the inputs are too correlated at column {column} for a damping of {damping}: \
                 use a larger damping"
            ),
            Self::Encode(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FeedbackError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Encode(error) => Some(error),
            _ => None,
        }
    }
}

impl From<EncodeError> for FeedbackError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

/// Encodes the rows of a layer with known inputs, with error feedback.
#[derive(Clone, Debug)]
pub struct Feedback {
    cols: usize,
    /// `U`, `[cols, cols]`, zero left of the diagonal.
    upper: Vec<f32>,
    /// `1 / U_ii^2`.
    importance: Vec<f32>,
}

impl Feedback {
    /// Factors the inverse of `hessian` after adding `damping` times the mean of its diagonal to
    /// the diagonal; 0.01 is usual. Takes about `n^3` operations and temporarily `12 n^2` bytes.
    ///
    /// # Errors
    /// If `damping` is not positive, the Hessian is not finite, memory is short, or inputs are too
    /// correlated for the damping.
    pub fn new(hessian: Hessian, damping: f64) -> Result<Self, FeedbackError> {
        let cols = hessian.cols();
        if !(damping > 0.0 && damping.is_finite()) {
            return Err(FeedbackError::Damping { damping });
        }
        let mut sums = hessian.into_sums();
        if let Some(at) = sums.iter().position(|sum| !sum.is_finite()) {
            return Err(FeedbackError::NotFinite {
                part: "squared inputs",
                column: at / cols.max(1),
            });
        }
        let trace: f64 = sums.iter().step_by(cols + 1).sum();
        // The factor's use does not depend on the scale of H; near 1 it fits f32. Without any
        // input, all columns count the same.
        let mean = trace / cols.max(1) as f64;
        let scale = if mean > 0.0 { 1.0 / mean } else { 0.0 };
        sums.iter_mut().for_each(|sum| *sum *= scale);
        let floor = if mean > 0.0 { damping } else { 1.0 };
        sums.iter_mut().step_by(cols + 1).for_each(|sum| *sum += floor);
        // H = R R^T with an upper triangular R, whose inverse is U. With rows and columns reversed
        // this is the usual Cholesky factorization.
        sums.reverse();
        let not_positive =
            |row: usize| FeedbackError::NotPositive { column: cols - 1 - row, damping };
        cholesky(&mut sums, cols).map_err(not_positive)?;
        invert(&mut sums, cols);
        sums.reverse();
        let mut upper = Vec::new();
        upper.try_reserve_exact(sums.len()).map_err(|_| FeedbackError::Memory { cols })?;
        upper.extend(sums.iter().map(|&u| u as f32));
        let diagonal = sums.iter().step_by(cols + 1);
        let importance: Vec<f32> = diagonal.map(|u| (1.0 / (u * u)) as f32).collect();
        match importance.iter().position(|i| !i.is_finite()) {
            None => Ok(Self { cols, upper, importance }),
            Some(column) => Err(FeedbackError::NotPositive { column, damping }),
        }
    }

    /// Number of inputs of the layer.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Encodes rows, `[out.len(), cols]`. Different rows may be encoded on different threads;
    /// several rows per call are faster.
    ///
    /// # Errors
    /// If `weights` does not hold as many rows as `out`, or a row can't be encoded; see
    /// [`Encoder::encode_row`].
    pub fn encode_rows(
        &self,
        encoder: &Encoder,
        weights: &[f32],
        out: &mut [RowMut<'_>],
    ) -> Result<(), FeedbackError> {
        let needed = out.len().saturating_mul(self.cols);
        if weights.len() != needed {
            let found = weights.len();
            return Err(FeedbackError::Length { part: "weights", found, needed });
        }
        out.iter().try_for_each(|out| encoder.check(self.cols, out))?;
        if self.cols == 0 {
            return Ok(());
        }
        let mut current = Vec::with_capacity(ROWS.min(out.len()) * self.cols);
        for (weights, out) in weights.chunks(ROWS * self.cols).zip(out.chunks_mut(ROWS)) {
            current.clear();
            current.extend_from_slice(weights);
            self.encode_tile(encoder, &mut current, out)?;
        }
        Ok(())
    }

    /// Encodes at most [`ROWS`] rows; corrects their weights in place.
    fn encode_tile(
        &self,
        encoder: &Encoder,
        current: &mut [f32],
        out: &mut [RowMut<'_>],
    ) -> Result<(), FeedbackError> {
        let cols = self.cols;
        let mut errors = [0.0f32; ROWS * BLOCK];
        for start in (0..cols).step_by(BLOCK) {
            let end = (start + BLOCK).min(cols);
            let rows = current.chunks_mut(cols).zip(out.iter_mut());
            for ((row, out), errors) in rows.zip(errors.chunks_mut(BLOCK)) {
                self.encode_block(encoder, &mut row[..end], start, out, errors)?;
            }
            if end < cols {
                subtract_product(
                    (&mut current[end..], cols),
                    (&errors[..out.len() * BLOCK], BLOCK),
                    (&self.upper[start * cols + end..], cols),
                    [end - start, cols - end],
                );
            }
        }
        Ok(())
    }

    /// Encodes a block of columns of `row`, starting at `start`; writes their errors, divided by
    /// the factor's diagonal, to `errors`.
    fn encode_block(
        &self,
        encoder: &Encoder,
        row: &mut [f32],
        start: usize,
        out: &mut RowMut<'_>,
        errors: &mut [f32],
    ) -> Result<(), EncodeError> {
        let (group, bits) = (encoder.format().group(), encoder.format().bits());
        let group_bytes = group * bits / 8;
        let end = row.len();
        let mut buffer = [0u8; MAX_GROUP];
        let codes = &mut buffer[..group];
        for column in (start..end).step_by(group) {
            let weights = &row[column..column + group];
            check_finite(weights, column)?;
            let importance = self.importance.get(column..column + group);
            let scaling = encoder.rounded(encoder.search_group(weights, importance, codes));
            encoder.store(column / group, scaling, out.scales, out.biases)?;
            let grid = encoder.grid(scaling);
            for (i, code) in (column..).zip(codes.iter_mut()) {
                *code = grid.nearest(row[i]);
                let upper = &self.upper[i * self.cols + i..i * self.cols + end];
                let error = (row[i] - grid.value(*code)) / upper[0];
                errors[i - start] = error;
                row[i..].iter_mut().zip(upper).for_each(|(w, u)| *w -= error * u);
            }
            let first = column / group * group_bytes;
            if let Some(packed) = out.codes.get_mut(first..first + group_bytes) {
                pack(codes, bits, packed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{DType, Format, Quantized};

    pub(crate) const COLS: usize = 256;
    const ROWS: usize = 40;

    pub(crate) fn uniform(seed: u64) -> impl FnMut() -> f32 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        }
    }

    /// Inputs that depend on a few latent variables of very different magnitudes, as in trained
    /// models.
    pub(crate) fn inputs(count: usize, seed: u64) -> Vec<f32> {
        let mut next = uniform(5);
        let mixing: Vec<f32> = (0..24 * COLS).map(|_| next()).collect();
        let sizes: Vec<f32> = (0..COLS).map(|_| (2.0 * next()).exp()).collect();
        let mut inputs = Vec::new();
        let mut next = uniform(seed);
        for _ in 0..count {
            let hidden: Vec<f32> = (0..24).map(|_| next()).collect();
            inputs.extend((0..COLS).map(|i| {
                let sum: f32 = hidden.iter().zip(&mixing[i * 24..]).map(|(h, m)| h * m).sum();
                sizes[i] * (sum + 0.5 * next())
            }));
        }
        inputs
    }

    pub(crate) fn output_error(hessian: &Hessian, matrix: &Quantized, weights: &[f32]) -> f64 {
        let blocks = matrix.blocks().unwrap();
        let mut sum = 0.0;
        for (row, weights) in weights.chunks(COLS).enumerate() {
            let mut decoded = vec![0.0; COLS];
            blocks.decode_row(row, &mut decoded).unwrap();
            let errors: Vec<f32> = decoded.iter().zip(weights).map(|(d, w)| d - w).collect();
            sum += hessian.output_error(&errors).unwrap();
        }
        sum
    }

    #[test]
    fn outputs_are_closer_than_with_rounding_or_search() {
        let mut hessian = Hessian::new(COLS).unwrap();
        hessian.add(&inputs(700, 6)).unwrap();
        let feedback = Feedback::new(hessian.clone(), 0.01).unwrap();
        let importance = hessian.importance();
        let mut next = uniform(8);
        let weights: Vec<f32> = (0..ROWS * COLS).map(|_| next() + next() + next()).collect();
        let affine = |bits, group| Format::affine(bits, group).unwrap();
        for (format, at_most) in [
            (affine(2, 64), 0.2),
            (affine(3, 64), 0.2),
            (affine(4, 32), 0.15),
            (affine(4, 128), 0.2),
            (affine(8, 64), 0.2),
            (Format::MXFP4, 0.3),
            (Format::MXFP8, 0.3),
            (Format::NVFP4, 0.15),
        ] {
            let encoder = Encoder::new(format, DType::F16);
            let mut plain = Quantized::zeroed(format, DType::F16, [ROWS, COLS]).unwrap();
            let mut searched = plain.clone();
            let mut fed_back = plain.clone();
            for (weights, mut row) in weights.chunks(COLS).zip(plain.rows_mut()) {
                encoder.encode_row(weights, &mut row).unwrap();
            }
            for (weights, mut row) in weights.chunks(COLS).zip(searched.rows_mut()) {
                encoder.search_row(weights, Some(&importance), &mut row).unwrap();
            }
            let mut rows: Vec<RowMut<'_>> = fed_back.rows_mut().collect();
            feedback.encode_rows(&encoder, &weights, &mut rows).unwrap();
            let [plain, searched, fed_back] =
                [&plain, &searched, &fed_back].map(|m| output_error(&hessian, m, &weights));
            assert!(fed_back < at_most * plain, "{format}: {plain} became {fed_back}");
            assert!(fed_back < searched, "{format}: {searched} with search, {fed_back}");
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_neighbours() {
        let mut hessian = Hessian::new(COLS).unwrap();
        hessian.add(&inputs(50, 6)).unwrap();
        let feedback = Feedback::new(hessian, 0.1).unwrap();
        let encoder = Encoder::new(Format::affine(3, 32).unwrap(), DType::BF16);
        let mut next = uniform(3);
        let weights: Vec<f32> = (0..20 * COLS).map(|_| next()).collect();
        let mut all = Quantized::zeroed(encoder.format(), DType::BF16, [20, COLS]).unwrap();
        let mut single = all.clone();
        let mut rows: Vec<RowMut<'_>> = all.rows_mut().collect();
        feedback.encode_rows(&encoder, &weights, &mut rows).unwrap();
        for (weights, row) in weights.chunks(COLS).zip(single.rows_mut()) {
            feedback.encode_rows(&encoder, weights, &mut [row]).unwrap();
        }
        assert_eq!(all, single);
    }

    #[test]
    fn without_inputs_it_equals_the_search() {
        let feedback = Feedback::new(Hessian::new(COLS).unwrap(), 0.01).unwrap();
        let encoder = Encoder::new(Format::affine(4, 64).unwrap(), DType::F32);
        let mut next = uniform(3);
        let weights: Vec<f32> = (0..COLS).map(|_| next()).collect();
        let mut fed_back = Quantized::zeroed(encoder.format(), DType::F32, [1, COLS]).unwrap();
        let mut searched = fed_back.clone();
        let mut rows: Vec<RowMut<'_>> = fed_back.rows_mut().collect();
        feedback.encode_rows(&encoder, &weights, &mut rows).unwrap();
        for mut row in searched.rows_mut() {
            encoder.search_row(&weights, None, &mut row).unwrap();
        }
        assert_eq!(fed_back, searched);
    }

    #[test]
    fn invalid_input_is_refused() {
        let mut hessian = Hessian::new(32).unwrap();
        hessian.add(&[1e30; 32]).unwrap();
        let error = Feedback::new(hessian, 0.01).unwrap_err();
        assert!(matches!(error, FeedbackError::NotFinite { .. }), "{error}");
        let error = Feedback::new(Hessian::new(32).unwrap(), 0.0).unwrap_err();
        assert_eq!(error, FeedbackError::Damping { damping: 0.0 });
        let feedback = Feedback::new(Hessian::new(32).unwrap(), 0.01).unwrap();
        let encoder = Encoder::new(Format::MXFP8, DType::F32);
        let mut matrix = Quantized::zeroed(Format::MXFP8, DType::F32, [1, 32]).unwrap();
        let mut rows: Vec<RowMut<'_>> = matrix.rows_mut().collect();
        assert!(feedback.encode_rows(&encoder, &[0.0; 31], &mut rows).is_err());
        let mut weights = [0.0; 32];
        weights[3] = f32::NAN;
        let error = feedback.encode_rows(&encoder, &weights, &mut rows).unwrap_err();
        assert!(matches!(error, FeedbackError::Encode(EncodeError::NotFinite { column: 3, .. })));
    }
}
