//! Search for the scale (and bias) of each group with the least squared error, in the same layout.
//!
//! [`Encoder::search_row`] minimises `sum_i importance_i * (w_i - decoded_i)^2` over each group,
//! with one `importance` per input. If it is the mean square of that input's activations, the sum
//! is the expected squared error of the output, as far as inputs are uncorrelated; without it all
//! inputs count the same. Candidates are compared by their decoded values, with scale and bias
//! rounded to their type, and plain rounding is one of them, so the result is never worse than
//! that.

mod affine;
mod float;

use crate::encode::{MAX_GROUP, Scaling, round_code};
use crate::{EncodeError, Encoder, Mode, RowMut, e2m1, e4m3, e8m0, to_e2m1, to_e4m3};

impl Encoder {
    /// Encodes one row with the least squared error found, weighted by `importance` if it is given:
    /// a finite, non-negative number for each column. Takes some tens of nanoseconds per weight.
    ///
    /// # Errors
    /// Those of [`Encoder::encode_row`]; also if `importance` has a different length than `weights`
    /// or contains an invalid number.
    pub fn search_row(
        &self,
        weights: &[f32],
        importance: Option<&[f32]>,
        out: &mut RowMut<'_>,
    ) -> Result<(), EncodeError> {
        if let Some(importance) = importance {
            check_importance(weights.len(), importance)?;
        }
        self.each_group(weights, out, |encoder, column, weights, codes| {
            let importance = importance.and_then(|all| all.get(column..column + weights.len()));
            Ok(encoder.search_group(weights, importance, codes))
        })
    }

    /// The best choice found for a group. Scale and bias are rounded to their type, unless plain
    /// rounding is best and overflows.
    pub(crate) fn search_group(
        &self,
        weights: &[f32],
        importance: Option<&[f32]>,
        codes: &mut [u8],
    ) -> Scaling {
        let mut shares = [1.0f32; MAX_GROUP];
        let shares = &mut shares[..weights.len()];
        if let Some(importance) = importance {
            // Relative to the largest, so that sums in f32 neither overflow nor underflow.
            let most = importance.iter().fold(0.0f32, |most, &i| most.max(i));
            if most > 0.0 {
                shares.iter_mut().zip(importance).for_each(|(share, i)| *share = i / most);
            }
        }
        let mut other = [0u8; MAX_GROUP];
        let other = &mut other[..weights.len()];
        let scaling = self.plain(weights, codes);
        let found = match self.format.mode() {
            Mode::Affine => affine::search(self, weights, shares, other),
            _ => float::search(self, scaling, weights, shares, other),
        };
        let Some(found) = found else { return scaling };
        let rounded = self.rounded(scaling);
        let before = self.grid(rounded).error(weights, shares, codes);
        let after = self.grid(found).error(weights, shares, other);
        // The scale of plain rounding may have overflowed.
        if before.is_finite() && before <= after {
            return scaling;
        }
        codes.copy_from_slice(other);
        found
    }

    /// The value of `scaling` after storing it.
    pub(crate) fn rounded(&self, scaling: Scaling) -> Scaling {
        match scaling {
            Scaling::Code(_) => scaling,
            Scaling::Affine { scale, bias } => {
                Scaling::Affine { scale: self.float.round(scale), bias: self.float.round(bias) }
            }
        }
    }

    /// The possible values of a group with the stored `scaling`.
    pub(crate) fn grid(&self, scaling: Scaling) -> Grid {
        let (scale, bias) = match (scaling, self.format.mode()) {
            (Scaling::Affine { scale, bias }, _) => (scale, bias),
            (Scaling::Code(code), Mode::NvFp4) => (e4m3(code) * self.factor(), 0.0),
            (Scaling::Code(code), _) => (e8m0(code), 0.0),
        };
        let max = ((1u32 << self.format.bits()) - 1) as f32;
        Grid { mode: self.format.mode(), scale, bias, max }
    }
}

/// The possible values of the weights of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    mode: Mode,
    scale: f32,
    bias: f32,
    max: f32,
}

impl Grid {
    /// The code whose value is nearest to `weight`.
    #[inline]
    pub(crate) fn nearest(&self, weight: f32) -> u8 {
        match self.mode {
            Mode::Affine => round_code((weight - self.bias) / self.scale, self.max),
            Mode::MxFp4 | Mode::NvFp4 => to_e2m1(weight / self.scale),
            Mode::MxFp8 => to_e4m3(weight / self.scale),
        }
    }

    /// The value of a code, equal to [`crate::Blocks::decode_row`]'s.
    #[inline]
    pub(crate) fn value(&self, code: u8) -> f32 {
        match self.mode {
            Mode::Affine => self.scale * f32::from(code) + self.bias,
            Mode::MxFp4 | Mode::NvFp4 => self.scale * e2m1(code),
            Mode::MxFp8 => self.scale * e4m3(code),
        }
    }

    /// The weighted squared error of `codes`.
    fn error(&self, weights: &[f32], shares: &[f32], codes: &[u8]) -> f64 {
        let terms = weights.iter().zip(shares).zip(codes);
        terms.fold(0.0, |sum, ((&weight, &share), &code)| {
            let error = f64::from(weight) - f64::from(self.value(code));
            sum + f64::from(share) * error * error
        })
    }
}

/// Fails unless there is a valid number for each of `cols` columns.
pub(crate) fn check_importance(cols: usize, importance: &[f32]) -> Result<(), EncodeError> {
    if importance.len() != cols {
        let (found, needed) = (importance.len(), cols);
        return Err(EncodeError::Length { part: "importance", found, needed });
    }
    match importance.iter().position(|i| !(i.is_finite() && *i >= 0.0)) {
        None => Ok(()),
        Some(column) => {
            let value = importance.get(column).copied().unwrap_or(f32::NAN);
            Err(EncodeError::Importance { column, value })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Format, Quantized};

    /// Pseudorandom numbers, roughly normal.
    pub(super) fn normal(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        (0..count).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 1.4).collect()
    }

    fn error(encoder: &Encoder, matrix: &Quantized, weights: &[f32], importance: &[f32]) -> f64 {
        let blocks = matrix.blocks().unwrap().with_factor(encoder.factor());
        let mut decoded = vec![0.0; weights.len()];
        blocks.decode_row(0, &mut decoded).unwrap();
        let terms = weights.iter().zip(&decoded).zip(importance);
        terms.map(|((w, d), i)| f64::from(w - d).powi(2) * f64::from(*i)).sum()
    }

    fn formats() -> Vec<Format> {
        let affine = Format::AFFINE_BITS.into_iter().flat_map(|bits| {
            Format::AFFINE_GROUPS.map(|group| Format::affine(bits, group).unwrap())
        });
        affine.chain([Format::MXFP4, Format::MXFP8, Format::NVFP4]).collect()
    }

    #[test]
    fn no_group_is_worse_than_plain_rounding() {
        let cols = 128;
        for format in formats() {
            for float in [DType::F32, DType::F16, DType::BF16] {
                let mut gain = 0.0f64;
                for seed in 0..24 {
                    let mut weights = normal(cols, seed);
                    match seed % 6 {
                        1 => weights.iter_mut().for_each(|w| *w = w.powi(3)),
                        2 => weights.iter_mut().for_each(|w| *w = w.abs() + 0.5),
                        3 => weights[17] = 20.0,
                        4 => weights.iter_mut().for_each(|w| *w = (*w * 4.0).round() * 1e-6),
                        5 => weights.iter_mut().for_each(|w| *w = 0.3),
                        _ => {}
                    }
                    weights.iter_mut().for_each(|w| *w = float.round(*w));
                    let importance: Vec<f32> =
                        normal(cols, seed + 99).iter().map(|i| i.powi(4)).collect();
                    let mut encoder = Encoder::new(format, float);
                    if seed % 2 == 0 {
                        encoder = encoder.with_global_scale(3.0);
                    }
                    for importance in [None, Some(&importance[..])] {
                        let mut plain = Quantized::zeroed(format, float, [1, cols]).unwrap();
                        let mut searched = plain.clone();
                        for mut row in plain.rows_mut() {
                            encoder.encode_row(&weights, &mut row).unwrap();
                        }
                        for mut row in searched.rows_mut() {
                            encoder.search_row(&weights, importance, &mut row).unwrap();
                        }
                        let importance = importance.unwrap_or(&[1.0; 128]);
                        let before = error(&encoder, &plain, &weights, importance);
                        let after = error(&encoder, &searched, &weights, importance);
                        assert!(
                            after <= before * (1.0 + 1e-9),
                            "{format} {float} {seed}: {before} became {after}"
                        );
                        if seed % 6 == 0 {
                            gain += (before / after).ln() / 8.0;
                        }
                    }
                }
                // On plain noise the gain is worth the time; it is least for 8-bit floats.
                let least = if format.mode() == Mode::MxFp8 { 1.0 } else { 1.03 };
                assert!(gain.exp() >= least, "{format} {float}: {}", gain.exp());
            }
        }
    }

    #[test]
    fn importance_must_fit() {
        let encoder = Encoder::new(Format::MXFP4, DType::F32);
        let search = |importance: &[f32]| {
            let out = &mut RowMut { codes: &mut [0; 16], scales: &mut [0], biases: &mut [] };
            encoder.search_row(&[1.0; 32], Some(importance), out)
        };
        assert_eq!(search(&[0.0; 32]), Ok(()));
        let length = EncodeError::Length { part: "importance", found: 31, needed: 32 };
        assert_eq!(search(&[1.0; 31]), Err(length));
        let mut importance = [1.0; 32];
        importance[7] = -1.0;
        assert_eq!(search(&importance), Err(EncodeError::Importance { column: 7, value: -1.0 }));
    }
}
