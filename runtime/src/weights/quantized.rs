//! Quantized tensors: packed words with companion tensors that define their meaning.
//!
//! `NAME.weight` is `U32`, `[.., rows, cols * bits / 32]`. `NAME.scales` is `[.., rows, cols /
//! group]`, and so is `NAME.biases` in affine mode. The format follows from these shapes and types:
//! the entry in config.json is often missing or meant for another layer (MLX reads checkpoints in
//! the same way). `NAME.global_scale`, one f32 or one per matrix of a stack, belongs to NVFP4.

use std::fmt;

use kinglet_models::TensorSpec;
use kinglet_quant::{DType, Format, FormatError, Mode, decode};
use safetensors::Dtype;

use super::error::{Name, Shape, WeightsError};
use super::header::Entry;
use super::matrix::{Encoding, MatrixData, Storage};
use super::tensor::Span;
use super::{Weights, dense_dtype};

/// NVFP4's factor is relative to the largest product of a scale (448) and a code (6).
const NVFP4_RANGE: f32 = 448.0 * 6.0;

/// What is wrong with a quantized tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuantizedError {
    /// A companion of the codes is missing.
    Missing {
        /// Its name.
        name: String,
    },
    /// A companion's shape doesn't match the codes.
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape of the codes.
        codes: Vec<usize>,
    },
    /// A companion has the wrong type.
    Dtype {
        /// Its name.
        name: String,
        /// Its type.
        found: String,
        /// The expected types.
        expected: &'static str,
    },
    /// No format has such rows.
    Format(FormatError),
    /// It is used as something other than a matrix.
    NotAMatrix,
}

impl fmt::Display for QuantizedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name } => write!(f, "its companion {} is missing", Name(name)),
            Self::Shape { name, found, codes } => write!(
                f,
                "{} has shape {}, which does not match codes of shape {}",
                Name(name),
                Shape(found),
                Shape(codes)
            ),
            Self::Dtype { name, found, expected } => {
                write!(f, "{} has dtype {found}, expected {expected}", Name(name))
            }
            Self::Format(error) => error.fmt(f),
            Self::NotAMatrix => f.write_str(
                "only matrices can be quantized; norms, biases and convolutions must be F32, F16 or BF16",
            ),
        }
    }
}

/// A whole quantized tensor.
pub(super) struct Packed {
    matrix: MatrixData,
    /// One for all, or one for each matrix of the stack.
    factors: Vec<f32>,
    rows_per_factor: usize,
}

impl Packed {
    /// Its encoding.
    pub(super) fn encoding(&self) -> Encoding {
        self.matrix.encoding()
    }

    /// Its format; never `None`.
    pub(super) fn format(&self) -> Option<Format> {
        match self.encoding() {
            Encoding::Quantized(format) => Some(format),
            Encoding::Dense(_) => None,
        }
    }

    /// The type of affine scales and biases.
    pub(super) fn float(&self) -> DType {
        match &self.matrix.storage {
            Storage::Quantized { float, .. } => *float,
            Storage::Dense { dtype, .. } => *dtype,
        }
    }

    /// Rows `start .. start + rows` over the flattened leading dimensions.
    pub(super) fn matrix(&self, start: usize, rows: usize) -> Result<MatrixData, WeightsError> {
        let mut matrix = self.matrix.slice(start..start.saturating_add(rows))?;
        let index = start.checked_div(self.rows_per_factor).unwrap_or(0);
        if let (Storage::Quantized { factor, .. }, Some(own)) =
            (&mut matrix.storage, self.factors.get(index))
        {
            *factor = *own;
        }
        Ok(matrix)
    }
}

/// The names of the companions of `NAME.weight`: scales, biases, global scale.
pub(super) fn companions(name: &str) -> Option<[String; 3]> {
    let prefix = name.strip_suffix(".weight")?;
    Some(["scales", "biases", "global_scale"].map(|part| format!("{prefix}.{part}")))
}

impl Weights {
    /// The quantized tensor stored under the name of a dense one, if it is quantized: 32-bit words
    /// with scales.
    pub(super) fn packed(&self, spec: &TensorSpec) -> Result<Option<Packed>, WeightsError> {
        let Some(entry) = self.entry(&spec.name).filter(|entry| entry.dtype == Dtype::U32) else {
            return Ok(None);
        };
        let Some([scales, biases, global]) = companions(&spec.name) else { return Ok(None) };
        let refuse = |error| WeightsError::Quantized { tensor: spec.name.clone(), error };
        let missing = |name: &String| refuse(QuantizedError::Missing { name: name.clone() });
        let scale_entry = self.entry(&scales).ok_or_else(|| missing(&scales))?;
        let wrong_shape = |name: &String, found: &Entry| {
            let (found, codes) = (found.shape.to_vec(), entry.shape.to_vec());
            refuse(QuantizedError::Shape { name: name.clone(), found, codes })
        };
        let not_the_tensor = || WeightsError::WrongShape {
            tensor: spec.name.clone(),
            expected: spec.shape.clone(),
            found: entry.shape.to_vec(),
        };
        let (Some((&cols, leading)), Some((&words, code_leading))) =
            (spec.shape.split_last(), entry.shape.split_last())
        else {
            return Err(not_the_tensor());
        };
        if leading != code_leading {
            return Err(not_the_tensor());
        }
        let groups = match scale_entry.shape.split_last() {
            Some((&groups, leading)) if leading == code_leading => groups,
            _ => return Err(wrong_shape(&scales, scale_entry)),
        };
        let wrong_dtype = |name: &String, found: Dtype, expected| {
            let found = found.to_string();
            refuse(QuantizedError::Dtype { name: name.clone(), found, expected })
        };
        let float = match (scale_entry.dtype, dense_dtype(scale_entry.dtype)) {
            (Dtype::U8, _) => None,
            (_, Some(float)) => Some(float),
            (other, None) => return Err(wrong_dtype(&scales, other, "F32, F16, BF16 or U8")),
        };
        let format = Format::infer(cols, words, groups, float.is_some())
            .map_err(|error| refuse(QuantizedError::Format(error)))?;
        let mut bias_span = None;
        if format.mode() == Mode::Affine {
            let bias_entry = self.entry(&biases).ok_or_else(|| missing(&biases))?;
            if bias_entry.shape != scale_entry.shape {
                return Err(wrong_shape(&biases, bias_entry));
            }
            if bias_entry.dtype != scale_entry.dtype {
                return Err(wrong_dtype(&biases, bias_entry.dtype, "the dtype of the scales"));
            }
            bias_span = Some(self.span(bias_entry)?);
        }
        // The shape fits a tensor of the file, so this can't overflow. A count of zero is fine.
        let rows = leading.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(0);
        let factors = match (format.mode(), self.entry(&global)) {
            _ if self.factors.contains_key(&spec.name) => {
                self.factors.get(&spec.name).copied().into_iter().collect()
            }
            (Mode::NvFp4, Some(entry)) => self.global_scales(entry).map_err(refuse)?,
            _ => Vec::new(),
        };
        let stack = if leading.len() > 1 { leading.first().copied().unwrap_or(1) } else { 1 };
        if !factors.is_empty() && factors.len() != 1 && factors.len() != stack {
            let entry = self.entry(&global).unwrap_or(entry);
            return Err(wrong_shape(&global, entry));
        }
        let rows_per_factor =
            if factors.len() > 1 { rows.checked_div(stack).unwrap_or(0) } else { 0 };
        Ok(Some(Packed {
            matrix: MatrixData {
                name: entry.name.clone(),
                storage: Storage::Quantized {
                    format,
                    float: float.unwrap_or(DType::F32),
                    codes: self.span(entry)?,
                    scales: self.span(scale_entry)?,
                    biases: bias_span,
                    factor: 1.0,
                },
                start: 0,
                rows,
                cols,
            },
            factors,
            rows_per_factor,
        }))
    }

    fn global_scales(&self, entry: &Entry) -> Result<Vec<f32>, QuantizedError> {
        let name = entry.name.to_string();
        if entry.dtype != Dtype::F32 {
            let (found, expected) = (entry.dtype.to_string(), "F32");
            return Err(QuantizedError::Dtype { name, found, expected });
        }
        let missing = |_| QuantizedError::Missing { name: entry.name.to_string() };
        let span = self.span(entry).map_err(missing)?;
        let bytes = span.read().map_err(missing)?;
        let mut values = vec![0.0; bytes.len() / 4];
        // The header check covers the length of F32 tensors.
        let decoded = decode(DType::F32, &bytes, &mut values);
        debug_assert!(decoded.is_ok());
        Ok(values.into_iter().map(|value| value / NVFP4_RANGE).collect())
    }

    pub(super) fn span(&self, entry: &Entry) -> Result<Span, WeightsError> {
        let missing = || WeightsError::MissingTensor { tensor: entry.name.to_string() };
        let part = self.parts.get(entry.part as usize).ok_or_else(missing)?.clone();
        Ok(Span::new(part, entry.range.clone()))
    }
}
