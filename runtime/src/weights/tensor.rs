//! Views of tensors: a reference to a file, and a range in it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use kinglet_quant::{DType, decode};

use super::error::WeightsError;
use super::map::Part;
use super::matrix::{MatrixData, Storage};

/// Bytes of a file that stays mapped while they are referred to.
#[derive(Clone)]
pub(super) struct Span {
    part: Arc<Part>,
    range: Range<usize>,
}

impl Span {
    pub(super) fn new(part: Arc<Part>, range: Range<usize>) -> Self {
        Self { part, range }
    }

    /// The bytes; `None` if they are not in memory.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        // A file that is read in parts has only its header in memory.
        if self.part.is_resident() { self.part.bytes().get(self.range.clone()) } else { None }
    }

    /// Number of bytes.
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    /// The bytes, read if necessary.
    pub(super) fn read(&self) -> Result<Cow<'_, [u8]>, WeightsError> {
        self.part.read(self.range.clone())
    }

    /// The same bytes, in memory.
    pub(super) fn resident(&self) -> Result<Self, WeightsError> {
        if self.part.is_resident() {
            return Ok(self.clone());
        }
        let bytes = self.read()?.into_owned();
        let range = 0..bytes.len();
        Ok(Self::new(Arc::new(Part::owned(self.part.name().to_string(), bytes)), range))
    }

    /// Fails if the file is now too short for its mapping.
    pub(super) fn check_unchanged(&self) -> Result<(), WeightsError> {
        self.part.check_unchanged()
    }

    /// Releases the memory of these bytes; touching them reads them again.
    pub(super) fn release(&self) {
        self.part.release(self.range.clone());
    }

    /// The part `range` of this span, in bytes; `None` if it is out of range.
    pub(super) fn slice(&self, range: Range<usize>) -> Option<Self> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.checked_add(range.end)?;
        (start <= end && end <= self.range.end)
            .then(|| Self { part: self.part.clone(), range: start..end })
    }
}

/// A reference to a dense tensor in its file. Cheap to clone; keeps the file mapped.
#[derive(Clone)]
pub struct TensorData {
    span: Span,
    name: Arc<str>,
    shape: Arc<[usize]>,
    dtype: DType,
}

impl TensorData {
    /// `range` must be within `part` and match `shape` and `dtype`, as header parsing ensures.
    pub(super) fn new(
        part: Arc<Part>,
        range: Range<usize>,
        name: Arc<str>,
        shape: Arc<[usize]>,
        dtype: DType,
    ) -> Self {
        Self { span: Span { part, range }, name, shape, dtype }
    }

    /// Its name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements, row-major and little-endian, with **no alignment**.
    ///
    /// # Errors
    /// If they are not in memory, because the file is read in parts ([`ReadAt`](super::ReadAt)).
    pub fn bytes(&self) -> Result<&[u8], WeightsError> {
        let not_there = || WeightsError::NotInMemory { tensor: self.name.to_string() };
        self.span.bytes().ok_or_else(not_there)
    }

    /// Size of all elements in bytes, in memory or not.
    pub fn byte_len(&self) -> usize {
        self.span.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.span.range.len() / self.dtype.size()
    }

    /// Rows `rows` of the tensor, seen as `[.., cols]` with its leading dimensions flattened.
    ///
    /// # Errors
    /// If the rows are out of range.
    pub fn rows(&self, rows: Range<usize>) -> Result<MatrixData, WeightsError> {
        let cols = self.shape.last().copied().unwrap_or(1);
        self.matrix(rows.start, rows.len(), cols)
    }

    /// `rows` rows of `cols` columns from row `start` on. `cols` must be the tensor's last
    /// dimension.
    pub(super) fn matrix(
        &self,
        start: usize,
        rows: usize,
        cols: usize,
    ) -> Result<MatrixData, WeightsError> {
        let (last, leading) = match self.shape.split_last() {
            Some((&last, leading)) => (last, leading),
            None => (1, &[][..]),
        };
        let available = leading.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let row_bytes = cols.checked_mul(self.dtype.size());
        let span = available.zip(row_bytes).zip(start.checked_add(rows)).and_then(
            |((available, row_bytes), end)| {
                let range = start.checked_mul(row_bytes)?..end.checked_mul(row_bytes)?;
                // Compare rows too: without columns, any number of rows has 0 bytes.
                (cols == last && end <= available).then(|| self.span.slice(range))?
            },
        );
        match span {
            Some(span) => {
                let storage = Storage::Dense { span, dtype: self.dtype };
                Ok(MatrixData { name: self.name.clone(), storage, start, rows, cols })
            }
            None => Err(WeightsError::Rows {
                tensor: self.name.to_string(),
                start,
                rows,
                cols,
                shape: self.shape.to_vec(),
            }),
        }
    }

    /// All elements as `f32`, none of which is NaN or infinite.
    ///
    /// # Errors
    /// If one is, there is not enough memory, or the file was truncated.
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightsError> {
        self.check_unchanged()?;
        let elements = self.elements();
        let no_memory = || WeightsError::OutOfMemory {
            tensor: self.name.to_string(),
            bytes: elements.saturating_mul(size_of::<f32>()),
        };
        let mut values = Vec::new();
        values.try_reserve_exact(elements).map_err(|_| no_memory())?;
        values.resize(elements, 0.0);
        // Can't fail: `elements` was computed from the bytes, which match shape and dtype.
        decode(self.dtype, &self.span.read()?, &mut values).map_err(|_| no_memory())?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                let (tensor, value) = (self.name.to_string(), values[index]);
                Err(WeightsError::NonFinite { tensor, index, value })
            }
            None => Ok(values),
        }
    }

    /// Releases the memory of the bytes in `range`; touching them reads them again.
    pub(crate) fn release(&self, range: Range<usize>) {
        if let Some(span) = self.span.slice(range) {
            span.release();
        }
    }

    /// Fails if the file is now too short for its mapping.
    pub(super) fn check_unchanged(&self) -> Result<(), WeightsError> {
        self.span.check_unchanged()
    }
}

impl fmt::Debug for TensorData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorData({} {:?} {})", self.name, self.shape, self.dtype)
    }
}
