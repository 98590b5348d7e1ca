//! [`Quantized`]: a quantized matrix in its own buffers.

use crate::{Blocks, BlocksError, DType, EncodeError, Format, Mode, RowMut};

/// A quantized matrix, `[rows, cols]`, with the bytes of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    format: Format,
    float: DType,
    rows: usize,
    cols: usize,
    factor: f32,
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

impl Quantized {
    /// Creates a matrix of `rows` by `cols` with all bytes zero, to be filled through
    /// [`Self::rows_mut`]. `float` is the type of affine scales and biases.
    ///
    /// # Errors
    /// If rows are not whole groups or there is not enough memory.
    pub fn zeroed(
        format: Format,
        float: DType,
        [rows, cols]: [usize; 2],
    ) -> Result<Self, EncodeError> {
        format.check_cols(cols)?;
        let scale_bytes = format.groups(cols).checked_mul(format.scale_type(float).size());
        let bias_bytes = if format.mode() == Mode::Affine { scale_bytes } else { Some(0) };
        Ok(Self {
            format,
            float,
            rows,
            cols,
            factor: 1.0,
            codes: zeros(rows.checked_mul(format.row_bytes(cols)))?,
            scales: zeros(scale_bytes.and_then(|bytes| bytes.checked_mul(rows)))?,
            biases: zeros(bias_bytes.and_then(|bytes| bytes.checked_mul(rows)))?,
        })
    }

    /// The same matrix with all weights multiplied by `factor` (NVFP4's global scale).
    pub fn with_factor(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// Its layout.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The type of affine scales and biases.
    pub fn float(&self) -> DType {
        self.float
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Factor on all weights; 1 nearly everywhere.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// A view of the matrix.
    ///
    /// # Errors
    /// Never: the parts have the right lengths.
    pub fn blocks(&self) -> Result<Blocks<'_>, BlocksError> {
        let shape = [self.rows, self.cols];
        Blocks::new(self.format, self.float, shape, &self.codes, &self.scales, &self.biases)
            .map(|blocks| blocks.with_factor(self.factor))
    }

    /// Its codes, scales and biases, as a checkpoint holds them.
    pub fn into_parts(self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        (self.codes, self.scales, self.biases)
    }

    /// Replaces the codes by packed ones, unless they have the wrong length.
    pub(crate) fn set_codes(&mut self, codes: Vec<u8>) {
        debug_assert_eq!(codes.len(), self.codes.len());
        if codes.len() == self.codes.len() {
            self.codes = codes;
        }
    }

    /// All rows, for writing; they can be written on different threads.
    pub fn rows_mut(&mut self) -> impl ExactSizeIterator<Item = RowMut<'_>> {
        let code_bytes = self.format.row_bytes(self.cols);
        let scale_bytes = self.format.groups(self.cols) * self.format.scale_type(self.float).size();
        let mut rest = (&mut self.codes[..], &mut self.scales[..], &mut self.biases[..]);
        (0..self.rows).map(move |_| RowMut {
            codes: take(&mut rest.0, code_bytes),
            scales: take(&mut rest.1, scale_bytes),
            biases: take(&mut rest.2, scale_bytes),
        })
    }
}

/// Splits off the first `bytes` bytes, or all if there are fewer.
fn take<'a>(rest: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let bytes = bytes.min(rest.len());
    let (first, others) = std::mem::take(rest).split_at_mut(bytes);
    *rest = others;
    first
}

/// Allocates zeros; returns an error instead of aborting if memory is short.
pub(crate) fn zeros(bytes: Option<usize>) -> Result<Vec<u8>, EncodeError> {
    let error = EncodeError::Memory { bytes };
    let Some(bytes) = bytes else { return Err(error) };
    let mut zeros = Vec::new();
    zeros.try_reserve_exact(bytes).map_err(|_| error)?;
    zeros.resize(bytes, 0);
    Ok(zeros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encoder;

    #[test]
    fn rows_are_written_where_they_are_read() {
        for format in [Format::affine(3, 32).unwrap(), Format::MXFP8, Format::NVFP4] {
            let mut matrix = Quantized::zeroed(format, DType::F32, [3, 64]).unwrap();
            let encoder = Encoder::new(format, DType::F32);
            for (row, mut out) in matrix.rows_mut().enumerate() {
                encoder.encode_row(&[12.0 * (1 << row) as f32; 64], &mut out).unwrap();
            }
            let blocks = matrix.blocks().unwrap();
            let mut decoded = [0.0; 64];
            for row in 0..3 {
                blocks.decode_row(row, &mut decoded).unwrap();
                assert_eq!(decoded, [12.0 * (1 << row) as f32; 64], "{format}");
            }
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let zeroed = |shape| Quantized::zeroed(Format::MXFP8, DType::F32, shape);
        assert_eq!(zeroed([usize::MAX, 64]), Err(EncodeError::Memory { bytes: None }));
        assert!(matches!(zeroed([1 << 40, 1 << 20]), Err(EncodeError::Memory { bytes: Some(_) })));
        assert!(matches!(zeroed([2, 65]), Err(EncodeError::Format(_))));
        assert_eq!(zeroed([0, 64]).unwrap().rows_mut().count(), 0);
    }
}
