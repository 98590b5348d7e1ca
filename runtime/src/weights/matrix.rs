//! [`MatrixData`]: a reference to a matrix in a checkpoint, dense or quantized.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kinglet_quant::{Blocks, DType, Format, Mode, ScaleType, decode};

use super::error::WeightsError;
use super::tensor::Span;

/// A reference to a matrix in its file: some rows of a tensor. Cheap to clone; keeps the file
/// mapped.
#[derive(Clone)]
pub struct MatrixData {
    pub(super) name: Arc<str>,
    pub(super) storage: Storage,
    /// First row within the tensor.
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// The bytes of exactly the matrix's rows.
#[derive(Clone)]
pub(super) enum Storage {
    Dense {
        span: Span,
        dtype: DType,
    },
    Quantized {
        format: Format,
        float: DType,
        codes: Span,
        scales: Span,
        biases: Option<Span>,
        factor: f32,
    },
}

/// The bytes of a matrix. They are little-endian and have **no alignment**.
#[derive(Clone, Copy, Debug)]
pub enum MatrixView<'a> {
    /// `rows * cols` elements, row-major.
    Dense {
        /// Type of the elements.
        dtype: DType,
        /// The elements.
        bytes: &'a [u8],
    },
    /// Codes and scales.
    Quantized(Blocks<'a>),
}

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Elements of this type.
    Dense(DType),
    /// Codes in this format.
    Quantized(Format),
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(dtype) => dtype.fmt(f),
            Self::Quantized(format) => format.fmt(f),
        }
    }
}

impl MatrixData {
    /// Name of the tensor that holds the rows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The encoding.
    pub fn encoding(&self) -> Encoding {
        match &self.storage {
            Storage::Dense { dtype, .. } => Encoding::Dense(*dtype),
            Storage::Quantized { format, .. } => Encoding::Quantized(*format),
        }
    }

    /// Number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes per row, including scales.
    pub fn row_bytes(&self) -> usize {
        match &self.storage {
            // A row is part of a file and can't overflow; saturate for matrices without rows.
            Storage::Dense { dtype, .. } => self.cols.saturating_mul(dtype.size()),
            Storage::Quantized { format, float, .. } => {
                let scales = if format.mode() == Mode::Affine { 2 } else { 1 };
                let scale = format.scale_type(*float).size();
                format.row_bytes(self.cols) + scales * scale * format.groups(self.cols)
            }
        }
    }

    /// Bytes of all rows.
    pub fn byte_len(&self) -> usize {
        self.rows.saturating_mul(self.row_bytes())
    }

    /// The bytes of the matrix.
    ///
    /// # Errors
    /// If they are not in memory: see [`MatrixData::resident`].
    pub fn view(&self) -> Result<MatrixView<'_>, WeightsError> {
        match &self.storage {
            Storage::Dense { span, dtype } => {
                Ok(MatrixView::Dense { dtype: *dtype, bytes: self.bytes_of(span)? })
            }
            Storage::Quantized { format, float, codes, scales, biases, factor } => {
                let biases = match biases {
                    Some(biases) => self.bytes_of(biases)?,
                    None => &[],
                };
                let (codes, scales) = (self.bytes_of(codes)?, self.bytes_of(scales)?);
                let shape = [self.rows, self.cols];
                // The spans were sized when the matrix was made.
                Blocks::new(*format, *float, shape, codes, scales, biases)
                    .map(|blocks| MatrixView::Quantized(blocks.with_factor(*factor)))
                    .map_err(|_| self.not_in_memory())
            }
        }
    }

    fn bytes_of<'a>(&self, span: &'a Span) -> Result<&'a [u8], WeightsError> {
        span.bytes().ok_or_else(|| self.not_in_memory())
    }

    fn not_in_memory(&self) -> WeightsError {
        WeightsError::NotInMemory { tensor: self.name.to_string() }
    }

    /// Decodes row `row` into `out`, exactly in f32.
    ///
    /// # Errors
    /// If there is no such row, or `out` is not `cols` long.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<(), WeightsError> {
        let error = || WeightsError::Rows {
            tensor: self.name.to_string(),
            start: row,
            rows: 1,
            cols: self.cols,
            shape: vec![self.rows, self.cols],
        };
        if row >= self.rows || out.len() != self.cols {
            return Err(error());
        }
        match self.view()? {
            MatrixView::Dense { dtype, bytes } => {
                let size = self.row_bytes();
                let bytes = bytes.get(row * size..(row + 1) * size).ok_or_else(error)?;
                decode(dtype, bytes, out).map_err(|_| error())
            }
            MatrixView::Quantized(blocks) => blocks.decode_row(row, out).map_err(|_| error()),
        }
    }

    /// Releases the memory of dense rows; touching them reads them again.
    pub(crate) fn release(&self) {
        if let Storage::Dense { span, .. } = &self.storage {
            span.release();
        }
    }

    /// The rows `rows` of this matrix.
    ///
    /// # Errors
    /// If the rows are out of range.
    pub fn slice(&self, rows: Range<usize>) -> Result<Self, WeightsError> {
        let storage = match &self.storage {
            Storage::Dense { span, dtype } => self
                .cut(span, &rows, self.row_bytes())
                .map(|span| Storage::Dense { span, dtype: *dtype }),
            Storage::Quantized { format, float, codes, scales, biases, factor } => {
                let scale = format.scale_type(*float).size() * format.groups(self.cols);
                let code = format.row_bytes(self.cols);
                self.cut(codes, &rows, code).zip(self.cut(scales, &rows, scale)).and_then(
                    |(codes, scales)| {
                        let biases = match biases {
                            Some(biases) => Some(self.cut(biases, &rows, scale)?),
                            None => None,
                        };
                        let (format, float, factor) = (*format, *float, *factor);
                        Some(Storage::Quantized { format, float, codes, scales, biases, factor })
                    },
                )
            }
        };
        match storage {
            Some(storage) => {
                let start = self.start + rows.start;
                Ok(Self { storage, start, rows: rows.len(), ..self.clone() })
            }
            None => Err(WeightsError::Rows {
                tensor: self.name.to_string(),
                start: rows.start,
                rows: rows.len(),
                cols: self.cols,
                shape: vec![self.rows, self.cols],
            }),
        }
    }

    /// The rows `rows` of this matrix in memory. Reads them if the file is read in parts; otherwise
    /// returns them as they are.
    ///
    /// # Errors
    /// If the rows are out of range or can't be read.
    pub fn resident(&self, rows: Range<usize>) -> Result<Self, WeightsError> {
        let mut part = self.slice(rows)?;
        match &mut part.storage {
            Storage::Dense { span, .. } => *span = span.resident()?,
            Storage::Quantized { codes, scales, biases, .. } => {
                for span in [codes, scales].into_iter().chain(biases) {
                    *span = span.resident()?;
                }
            }
        }
        Ok(part)
    }

    /// The type of the scales, and the factor of all weights; `None` for a dense matrix.
    pub fn scaling(&self) -> Option<(ScaleType, f32)> {
        match &self.storage {
            Storage::Dense { .. } => None,
            Storage::Quantized { format, float, factor, .. } => {
                Some((format.scale_type(*float), *factor))
            }
        }
    }

    fn cut(&self, span: &Span, rows: &Range<usize>, row_bytes: usize) -> Option<Span> {
        let range = rows.start.checked_mul(row_bytes)?..rows.end.checked_mul(row_bytes)?;
        let within = rows.start <= rows.end && rows.end <= self.rows;
        if within { span.slice(range) } else { None }
    }
}

impl fmt::Debug for MatrixData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, start, end) = (&self.name, self.start, self.start + self.rows);
        let encoding = self.encoding();
        write!(f, "MatrixData({name} rows {start}..{end} of {} {encoding})", self.cols)
    }
}
