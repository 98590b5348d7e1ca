//! How matrices lie on the device: what the kernels read, row by row. Codes of all rows come first, padded to what a
//! kernel reads at once, then the scales; an affine scale and its bias lie side by side.

use kinglet_quant::{Blocks, DType, Mode, ScaleType};
use kinglet_shaders::WeightType;

use crate::Error;
use crate::weights::{Encoding, MatrixData, MatrixView};

/// What a binding's elements are aligned to.
pub(super) const ELEMENT: usize = 16;

/// How a matrix lies on the device. Matrices that are read together are laid out alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Layout {
    pub weights: WeightType,
    /// Weights that share a scale; 0 where there are none.
    pub group: usize,
    /// Type of affine scales and biases.
    pub float: DType,
    /// What all weights are multiplied with.
    pub factor: f32,
}

impl Layout {
    /// Plain `f32`: what everything can be decoded to.
    pub(super) const F32: Self =
        Self { weights: WeightType::F32, group: 0, float: DType::F32, factor: 1.0 };

    /// The layout that keeps a matrix as it is stored.
    pub(super) fn of(matrix: &MatrixData) -> Self {
        match (matrix.encoding(), matrix.scaling()) {
            (Encoding::Dense(DType::F16), _) => Self { weights: WeightType::F16, ..Self::F32 },
            (Encoding::Dense(DType::BF16), _) => Self { weights: WeightType::Bf16, ..Self::F32 },
            (Encoding::Quantized(format), Some((scale_type, factor))) => {
                let weights = match (format.mode(), format.bits()) {
                    (Mode::Affine, 2) => WeightType::Affine2,
                    (Mode::Affine, 3) => WeightType::Affine3,
                    (Mode::Affine, 4) => WeightType::Affine4,
                    (Mode::Affine, 5) => WeightType::Affine5,
                    (Mode::Affine, 6) => WeightType::Affine6,
                    (Mode::Affine, 8) => WeightType::Affine8,
                    (Mode::MxFp4, _) => WeightType::MxFp4,
                    (Mode::MxFp8, _) => WeightType::MxFp8,
                    (Mode::NvFp4, _) => WeightType::NvFp4,
                    (Mode::Affine, _) => return Self::F32,
                };
                let float = match scale_type {
                    ScaleType::Float(float) => float,
                    ScaleType::E8M0 | ScaleType::E4M3 => DType::F32,
                };
                // The kernels know a factor for the formats whose scales are bytes.
                if format.mode() == Mode::Affine && factor != 1.0 {
                    return Self::F32;
                }
                Self { weights, group: format.group(), float, factor }
            }
            _ => Self::F32,
        }
    }

    /// The layout of matrices that a kernel reads together: decoded where they are not stored alike.
    pub(super) fn common<'a>(matrices: impl IntoIterator<Item = &'a MatrixData>) -> Self {
        let mut common = None;
        for matrix in matrices {
            let own = Self::of(matrix);
            if *common.get_or_insert(own) != own {
                return Self::F32;
            }
        }
        common.unwrap_or(Self::F32)
    }

    /// Bytes of a row of codes.
    pub(super) fn code_bytes(self, cols: usize) -> usize {
        let bits = match self.weights {
            WeightType::F32 => 32,
            WeightType::F16 | WeightType::Bf16 => 16,
            WeightType::Affine2 => 2,
            WeightType::Affine3 => 3,
            WeightType::Affine4 | WeightType::MxFp4 | WeightType::NvFp4 => 4,
            WeightType::Affine5 => 5,
            WeightType::Affine6 => 6,
            WeightType::Affine8 | WeightType::MxFp8 => 8,
        };
        // Groups are multiples of 8 weights.
        let bytes = cols.saturating_mul(bits).div_ceil(8);
        if self.words() { bytes } else { bytes.next_multiple_of(ELEMENT) }
    }

    /// Whether kernels count codes in words, not in elements.
    fn words(self) -> bool {
        matches!(
            self.weights,
            WeightType::Affine2 | WeightType::Affine3 | WeightType::Affine5 | WeightType::Affine6
        )
    }

    /// Bytes of a row of scales.
    pub(super) fn scale_bytes(self, cols: usize) -> usize {
        let groups = cols.checked_div(self.group).unwrap_or(0);
        match self.weights {
            WeightType::F32 | WeightType::F16 | WeightType::Bf16 => 0,
            WeightType::MxFp4 | WeightType::MxFp8 | WeightType::NvFp4 => groups.next_multiple_of(4),
            _ => groups * 2 * self.float.size(),
        }
    }

    /// The kernels' `Matrix` for codes from byte `codes` and scales from byte `scales` on. All of it is within a binding, whose
    /// words can be counted in 32 bits.
    pub(super) fn placed(self, codes: usize, scales: usize, cols: usize) -> Placed {
        let unit = if self.words() { 4 } else { ELEMENT };
        Placed {
            offset: (codes / unit) as u32,
            stride: (self.code_bytes(cols) / unit) as u32,
            scales: (scales / 4) as u32,
            scale_stride: (self.scale_bytes(cols) / 4) as u32,
            units: (self.group / 32).max(1) as u32,
            kind: match self.float {
                DType::F16 => 0,
                DType::BF16 => 1,
                DType::F32 => 2,
            },
            factor: self.factor,
        }
    }

    /// Writes the codes of a row into `out`, which is zero where nothing is written.
    pub(super) fn write_codes(
        self,
        matrix: &MatrixData,
        row: usize,
        decoded: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let kept = Self::of(matrix) == self;
        let source = match matrix.view()? {
            MatrixView::Dense { bytes, .. } if kept => {
                let len = matrix.row_bytes();
                bytes.get(row * len..).and_then(|rest| rest.get(..len)).unwrap_or_default()
            }
            MatrixView::Quantized(blocks) if kept && self.group > 0 => blocks.row_codes(row),
            _ => {
                decoded.resize(matrix.cols(), 0.0);
                matrix.decode_row(row, decoded)?;
                bytemuck::cast_slice(decoded)
            }
        };
        out.iter_mut().zip(source).for_each(|(out, byte)| *out = *byte);
        Ok(())
    }

    /// Writes the scales of a row into `out`.
    pub(super) fn write_scales(self, blocks: &Blocks<'_>, row: usize, out: &mut [u8]) {
        let (scales, biases) = (blocks.row_scales(row), blocks.row_biases(row));
        if biases.is_empty() {
            out.iter_mut().zip(scales).for_each(|(out, byte)| *out = *byte);
            return;
        }
        let size = self.float.size();
        let pairs = scales.chunks_exact(size).zip(biases.chunks_exact(size));
        for (out, (scale, bias)) in out.chunks_exact_mut(2 * size).zip(pairs) {
            let (first, second) = out.split_at_mut(size);
            first.copy_from_slice(scale);
            second.copy_from_slice(bias);
        }
    }
}

/// Where a matrix lies in a buffer: the kernels' `Matrix`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placed {
    pub offset: u32,
    pub stride: u32,
    pub scales: u32,
    pub scale_stride: u32,
    pub units: u32,
    pub kind: u32,
    pub factor: f32,
}
