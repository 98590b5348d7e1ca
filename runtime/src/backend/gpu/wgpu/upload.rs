//! Weights on their way to the device: from the mapped file straight into the queue's staging memory, a few MiB at a
//! time. Matrices that a kernel reads together lie in one buffer; what is larger than a binding can be is split.

use std::ops::Range;
use std::sync::Arc;

use kinglet_shaders::WeightType;

use super::device::Device;
use super::layout::{ELEMENT, Layout, Placed};
use crate::Error;
use crate::weights::{MatrixData, MatrixView};

/// Bytes written at once.
const WRITE: usize = 4 << 20;
/// Bytes in flight after which the device is waited for, so that staging memory stays small.
const IN_FLIGHT: u64 = 64 << 20;

/// Matrices of equal width that kernels see as one. In each stack they stand one below the other; an item of an op takes
/// `rows_per_item` rows of every stack. A piece has its items' rows of the first stack, then those of the next.
pub(super) struct Section {
    pub stacks: Vec<Vec<MatrixData>>,
    pub rows_per_item: usize,
}

impl Section {
    pub(super) fn matrices(&self) -> impl Iterator<Item = &MatrixData> {
        self.stacks.iter().flatten()
    }

    fn cols(&self) -> usize {
        self.matrices().next().map_or(0, MatrixData::cols)
    }
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

/// Codes or scales.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plane {
    Codes,
    Scales,
}

/// Bytes that `items` items of all sections take.
pub(super) fn bytes_of(layout: Layout, sections: &[Section], items: usize) -> usize {
    let one = |section: &Section| {
        let rows = section.rows_per_item.saturating_mul(items) * section.stacks.len();
        let plane = |row: usize| row.saturating_mul(rows).next_multiple_of(ELEMENT);
        plane(layout.code_bytes(section.cols())) + plane(layout.scale_bytes(section.cols()))
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
        layout: Layout,
        sections: &[Section],
        items: usize,
    ) -> Result<Vec<Piece>, Error> {
        let limit = self.device.max_binding;
        let fits = |items: usize| bytes_of(layout, sections, items) as u64 <= limit;
        // Alignment aside, bytes grow with the items.
        let mut most = items.max(1);
        while most > 1 && !fits(most) {
            let per_item = bytes_of(layout, sections, most).div_ceil(most) as u64;
            most = usize::try_from(limit / per_item).unwrap_or(most).clamp(1, most - 1);
        }
        if !fits(most) {
            let name = sections.first().and_then(|section| section.matrices().next());
            return Err(Error::DeviceLimit {
                what: format!("a part of {}", name.map_or("a matrix", |matrix| matrix.name())),
                needed: bytes_of(layout, sections, most) as u64,
                limit,
            });
        }
        let mut pieces = Vec::new();
        for first in (0..items).step_by(most) {
            pieces.push(self.piece(layout, sections, first..items.min(first + most))?);
        }
        Ok(pieces)
    }

    fn piece(
        &mut self,
        layout: Layout,
        sections: &[Section],
        items: Range<usize>,
    ) -> Result<Piece, Error> {
        let bytes = bytes_of(layout, sections, items.len());
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = self.device.buffer("weights", bytes as u64, usage)?;
        let (mut at, mut placed) = (0, Vec::new());
        for section in sections {
            let rows = items.start * section.rows_per_item..items.end * section.rows_per_item;
            let mut starts = [0, 0];
            for (plane, start) in [Plane::Codes, Plane::Scales].into_iter().zip(&mut starts) {
                *start = at;
                at += self.plane(&buffer, at, layout, plane, section, rows.clone())?;
                at = at.next_multiple_of(ELEMENT);
            }
            placed.push(layout.placed(starts[0], starts[1], section.cols()));
        }
        Ok(Piece { buffer, weights: layout.weights, items, placed })
    }

    /// Writes `rows` of a section's codes or scales from byte `at` of the buffer on; gives how many bytes they take.
    fn plane(
        &mut self,
        buffer: &wgpu::Buffer,
        at: usize,
        layout: Layout,
        plane: Plane,
        section: &Section,
        rows: Range<usize>,
    ) -> Result<usize, Error> {
        let stride = match plane {
            Plane::Codes => layout.code_bytes(section.cols()),
            Plane::Scales => layout.scale_bytes(section.cols()),
        };
        if stride == 0 {
            return Ok(0);
        }
        let mut at = at;
        for stack in &section.stacks {
            let mut start = 0;
            for matrix in stack {
                let own = rows.start.max(start)..rows.end.min(start + matrix.rows());
                if own.start < own.end {
                    let own_at = at + (own.start - rows.start) * stride;
                    let own = own.start - start..own.end - start;
                    self.rows(buffer, own_at, layout, plane, matrix, own, stride)?;
                }
                start += matrix.rows();
            }
            at += rows.len() * stride;
        }
        Ok(section.stacks.len() * rows.len() * stride)
    }

    #[allow(clippy::too_many_arguments)]
    fn rows(
        &mut self,
        buffer: &wgpu::Buffer,
        at: usize,
        layout: Layout,
        plane: Plane,
        matrix: &MatrixData,
        rows: Range<usize>,
        stride: usize,
    ) -> Result<(), Error> {
        let batch = (WRITE / stride).max(1);
        let (mut line, mut decoded) = (vec![0u8; stride], Vec::new());
        for first in rows.clone().step_by(batch) {
            let count = batch.min(rows.end - first);
            let offset = (at + (first - rows.start) * stride) as u64;
            let Some(size) = wgpu::BufferSize::new((count * stride) as u64) else { continue };
            let part = matrix.resident(first..first + count)?;
            let view = self.device.queue.write_buffer_with(buffer, offset, size);
            let mut view = view.ok_or_else(|| self.device.fault("refused weights"))?;
            for row in 0..count {
                match (plane, part.view()?) {
                    (Plane::Codes, _) => {
                        layout.write_codes(&part, row, &mut decoded, &mut line)?;
                    }
                    (Plane::Scales, MatrixView::Quantized(blocks)) => {
                        layout.write_scales(&blocks, row, &mut line);
                    }
                    (Plane::Scales, MatrixView::Dense { .. }) => {}
                }
                view.slice(row * stride..(row + 1) * stride).copy_from_slice(&line);
            }
            drop(view);
            self.in_flight += size.get();
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
