//! [`Quantized`]: a quantized matrix in buffers of its own.

use crate::{Blocks, BlocksError, DType, EncodeError, Format, Mode, RowMut};

/// A quantized matrix, `[rows, cols]`, in the bytes that a checkpoint holds.
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
    /// A matrix of `rows` by `cols` whose bytes are all zero, to be written by [`Self::rows_mut`]. `float` is the type of affine scales and
    /// biases.
    ///
    /// # Errors
    /// When rows are not whole groups or there is no memory.
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

    /// The same matrix with all weights times `factor` (NVFP4's scale of a whole matrix).
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

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What all weights are multiplied with; 1 nearly everywhere.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// A view of it.
    ///
    /// # Errors
    /// Never: the parts were made to fit.
    pub fn blocks(&self) -> Result<Blocks<'_>, BlocksError> {
        let shape = [self.rows, self.cols];
        Blocks::new(self.format, self.float, shape, &self.codes, &self.scales, &self.biases)
            .map(|blocks| blocks.with_factor(self.factor))
    }

    /// Its codes, scales and biases, as a checkpoint holds them.
    pub fn into_parts(self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        (self.codes, self.scales, self.biases)
    }

    /// Takes over codes that are already packed. What is of another length than that shape has is not taken.
    pub(crate) fn set_codes(&mut self, codes: Vec<u8>) {
        debug_assert_eq!(codes.len(), self.codes.len());
        if codes.len() == self.codes.len() {
            self.codes = codes;
        }
    }

    /// All rows, to be written; they can be handed to different threads.
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

/// Cuts the first `bytes` bytes off, or all if there are fewer.
fn take<'a>(rest: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let bytes = bytes.min(rest.len());
    let (first, others) = std::mem::take(rest).split_at_mut(bytes);
    *rest = others;
    first
}

/// That many zeros; an error instead of an abort where memory is short.
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
