//! Weights on their way to the device: from the mapped file straight into the queue's staging memory, a few MiB at a
//! time, with rows padded to whole units. Matrices that a kernel reads together lie in one buffer; what is larger than a
//! binding can be is split.

use std::ops::Range;
use std::sync::Arc;

use kinglet_shaders::WeightType;
use kinglet_quant::DType;

use super::device::Device;
use crate::Error;
use crate::weights::{Encoding, MatrixData, MatrixView};

/// Bytes written at once.
const WRITE: usize = 4 << 20;
/// Bytes in flight after which the device is waited for, so that staging memory stays small.
const IN_FLIGHT: u64 = 64 << 20;
/// What a binding's elements are aligned to: rows are padded to it.
const UNIT: usize = 16;

/// Matrices of equal width, one below the other, of which each item of an op takes `rows_per_item` rows.
pub(super) struct Section {
    pub matrices: Vec<MatrixData>,
    pub rows_per_item: usize,
}

/// Where a section lies in a piece: the kernels' `Matrix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub offset: u32,
    pub stride: u32,
    pub scales: u32,
    pub biases: u32,
    pub groups: u32,
}

/// A buffer with some items of all sections.
#[derive(Clone)]
pub(super) struct Piece {
    pub buffer: wgpu::Buffer,
    pub weights: WeightType,
    pub items: Range<usize>,
    /// By section.
    pub placed: Vec<Placed>,
}

/// Writes weights, bounded in what is under way.
pub(super) struct Uploader {
    device: Arc<Device>,
    in_flight: u64,
}

impl Section {
    fn cols(&self) -> usize {
        self.matrices.first().map_or(0, MatrixData::cols)
    }
}

/// How the kernels will read matrices that are stored like this.
pub(super) fn weight_type(matrix: &MatrixData) -> WeightType {
    match matrix.encoding() {
        Encoding::Dense(DType::F16) => WeightType::F16,
        Encoding::Dense(DType::BF16) => WeightType::Bf16,
        _ => WeightType::F32,
    }
}

/// How matrices that a kernel reads together will be read: decoded to f32 where they are not stored alike.
pub(super) fn common_type<'a>(matrices: impl Iterator<Item = &'a MatrixData>) -> WeightType {
    let mut common = None;
    for matrix in matrices {
        let own = weight_type(matrix);
        if *common.get_or_insert(own) != own {
            return WeightType::F32;
        }
    }
    common.unwrap_or(WeightType::F32)
}

/// Bytes of a row on the device.
fn row_bytes(weights: WeightType, cols: usize) -> usize {
    let size = match weights {
        WeightType::F32 => 4,
        WeightType::F16 | WeightType::Bf16 => 2,
    };
    cols.saturating_mul(size).next_multiple_of(UNIT)
}

/// Bytes of an item of all sections.
pub(super) fn item_bytes(weights: WeightType, sections: &[Section]) -> usize {
    let one = |section: &Section| {
        section.rows_per_item.saturating_mul(row_bytes(weights, section.cols()))
    };
    sections.iter().map(one).sum()
}

impl Uploader {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self { device, in_flight: 0 }
    }

    /// Uploads `items` items, in as many pieces as bindings ask for.
    ///
    /// # Errors
    /// When one item alone is too large, or there is no memory.
    pub(super) fn pieces(
        &mut self,
        weights: WeightType,
        sections: &[Section],
        items: usize,
    ) -> Result<Vec<Piece>, Error> {
        let limit = self.device.max_binding;
        let bytes = item_bytes(weights, sections).max(1);
        let most = usize::try_from(limit).unwrap_or(usize::MAX) / bytes;
        if most == 0 {
            let name = sections.first().and_then(|section| section.matrices.first());
            return Err(Error::DeviceLimit {
                what: format!("a part of {}", name.map_or("a matrix", |matrix| matrix.name())),
                needed: bytes as u64,
                limit,
            });
        }
        let mut pieces = Vec::new();
        for first in (0..items).step_by(most) {
            pieces.push(self.piece(weights, sections, first..items.min(first + most))?);
        }
        Ok(pieces)
    }

    fn piece(
        &mut self,
        weights: WeightType,
        sections: &[Section],
        items: Range<usize>,
    ) -> Result<Piece, Error> {
        let bytes = item_bytes(weights, sections) * items.len();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = self.device.buffer("weights", bytes as u64, usage)?;
        let (mut at, mut placed) = (0, Vec::new());
        for section in sections {
            let stride = row_bytes(weights, section.cols());
            placed.push(Placed {
                // Less than the binding's limit, which is below 2^32 units.
                offset: (at / UNIT) as u32,
                stride: (stride / UNIT) as u32,
                scales: 0,
                biases: 0,
                groups: 0,
            });
            let rows = items.start * section.rows_per_item..items.end * section.rows_per_item;
            let mut start = 0;
            for matrix in &section.matrices {
                let own = rows.start.max(start)..rows.end.min(start + matrix.rows());
                if own.start < own.end {
                    let own = own.start - start..own.end - start;
                    let own_at = at + (start + own.start - rows.start) * stride;
                    self.rows(&buffer, own_at, weights, matrix, own, stride)?;
                }
                start += matrix.rows();
            }
            at += rows.len() * stride;
        }
        Ok(Piece { buffer, weights, items, placed })
    }

    /// Writes `rows` of a matrix from byte `at` of the buffer on.
    fn rows(
        &mut self,
        buffer: &wgpu::Buffer,
        at: usize,
        weights: WeightType,
        matrix: &MatrixData,
        rows: Range<usize>,
        stride: usize,
    ) -> Result<(), Error> {
        let batch = (WRITE / stride.max(1)).max(1);
        let as_stored = match matrix.view() {
            MatrixView::Dense { bytes, .. } if weight_type(matrix) == weights => Some(bytes),
            _ => None,
        };
        let mut decoded = vec![0.0; if as_stored.is_some() { 0 } else { matrix.cols() }];
        for first in rows.clone().step_by(batch) {
            let count = batch.min(rows.end - first);
            let size = (count * stride) as u64;
            let offset = (at + (first - rows.start) * stride) as u64;
            let Some(size_written) = wgpu::BufferSize::new(size) else { continue };
            let view = self.device.queue.write_buffer_with(buffer, offset, size_written);
            let mut view = view.ok_or_else(|| self.device.fault("refused weights"))?;
            for row in 0..count {
                let place = row * stride..(row + 1) * stride;
                let mut out = view.slice(place);
                let written = match as_stored {
                    Some(bytes) => {
                        let len = matrix.row_bytes();
                        let source = bytes.get((first + row) * len..).and_then(|b| b.get(..len));
                        let source = source.unwrap_or_default();
                        out.slice(..source.len()).copy_from_slice(source);
                        source.len()
                    }
                    None => {
                        matrix.decode_row(first + row, &mut decoded)?;
                        let source: &[u8] = bytemuck::cast_slice(&decoded);
                        out.slice(..source.len()).copy_from_slice(source);
                        source.len()
                    }
                };
                out.slice(written..).fill(0);
            }
            drop(view);
            self.in_flight += size;
            if self.in_flight >= IN_FLIGHT {
                self.finish()?;
            }
        }
        Ok(())
    }

    /// Waits until all is there.
    ///
    /// # Errors
    /// When the device is lost or has no memory.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.device.queue.submit([]);
        self.in_flight = 0;
        self.device.wait(None)
    }
}
