//! Weights on their way to the device: where matrices lie in buffers, and how they get there from the mapped file, a few MiB at a time.
//! Matrices that a kernel reads together lie in one buffer; what is larger than a binding is split.

use std::ops::Range;
use std::sync::Arc;

use kinglet_shaders::WeightType;

use super::api::{Commands, Gpu};
use super::layout::{ELEMENT, Layout, Placed};
use super::recording::AllocationId;
use crate::Error;
use crate::weights::{MatrixData, MatrixView};

/// Bytes written at once.
const WRITE: usize = 4 << 20;
/// Bytes in flight after which the device is waited for, which bounds staging memory.
const IN_FLIGHT: u64 = 64 << 20;

/// Matrices of equal width that kernels see as one. Each stack holds matrices one below the other; an item of an op takes `rows_per_item` rows of
/// every stack. A piece has its items' rows of the first stack, then those of the next.
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
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub memory: AllocationId,
    pub weights: WeightType,
    pub items: Range<usize>,
    /// By section.
    pub placed: Vec<Placed>,
}

/// What a buffer holds from the beginning.
pub(super) enum Contents {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Some items of sections.
    Matrices { layout: Layout, sections: Arc<[Section]>, items: Range<usize> },
}

/// Codes or scales.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plane {
    Codes,
    Scales,
}

impl Plane {
    const ALL: [Self; 2] = [Self::Codes, Self::Scales];

    /// Bytes of a row.
    fn stride(self, layout: Layout, section: &Section) -> usize {
        match self {
            Self::Codes => layout.code_bytes(section.cols()),
            Self::Scales => layout.scale_bytes(section.cols()),
        }
    }

    /// Bytes of the rows of `items` items.
    fn bytes(self, layout: Layout, section: &Section, items: usize) -> usize {
        let rows = section.rows_per_item.saturating_mul(items) * section.stacks.len();
        self.stride(layout, section).saturating_mul(rows).next_multiple_of(ELEMENT)
    }
}

/// Bytes that `items` items of all sections take.
pub(super) fn bytes_of(layout: Layout, sections: &[Section], items: usize) -> usize {
    let planes = |section| Plane::ALL.map(|plane| plane.bytes(layout, section, items));
    sections.iter().flat_map(planes).sum()
}

/// Where each section lies in a buffer of `items` items.
pub(super) fn placed(layout: Layout, sections: &[Section], items: usize) -> Vec<Placed> {
    let mut at = 0;
    let mut place = |plane: Plane, section: &Section| {
        let start = at;
        at += plane.bytes(layout, section, items);
        start
    };
    let sections = sections.iter().map(|section| {
        let [codes, scales] = Plane::ALL.map(|plane| place(plane, section));
        layout.placed(codes, scales, section.cols())
    });
    sections.collect()
}

/// How many of `items` items fit into a binding of `limit` bytes.
///
/// # Errors
/// When one item alone is too large.
pub(super) fn fitting(
    layout: Layout,
    sections: &[Section],
    items: usize,
    limit: u64,
) -> Result<usize, Error> {
    let fits = |items: usize| bytes_of(layout, sections, items) as u64 <= limit;
    // Alignment aside, bytes grow with the items.
    let mut most = items.max(1);
    while most > 1 && !fits(most) {
        let per_item = bytes_of(layout, sections, most).div_ceil(most) as u64;
        most = usize::try_from(limit / per_item).unwrap_or(most).clamp(1, most - 1);
    }
    if fits(most) {
        return Ok(most);
    }
    let name = sections.first().and_then(|section| section.matrices().next());
    Err(Error::DeviceLimit {
        what: format!("a part of {}", name.map_or("a matrix", |matrix| matrix.name())),
        needed: bytes_of(layout, sections, most) as u64,
        limit,
    })
}

/// Writes weights to buffers.
pub(super) struct Uploader<'a, A: Gpu> {
    device: &'a A,
    in_flight: u64,
}

impl<'a, A: Gpu> Uploader<'a, A> {
    pub(super) fn new(device: &'a A) -> Self {
        Self { device, in_flight: 0 }
    }

    /// Writes what `buffer` holds from the beginning.
    ///
    /// # Errors
    /// When weights can't be read, or the device fails.
    pub(super) fn upload(&mut self, buffer: &A::Buffer, contents: Contents) -> Result<(), Error> {
        match contents {
            Contents::Bytes(bytes) => {
                if !bytes.is_empty() {
                    self.device.write(buffer, 0, &bytes);
                }
                Ok(())
            }
            Contents::Matrices { layout, sections, items } => {
                let mut at = 0;
                for section in &*sections {
                    let rows =
                        items.start * section.rows_per_item..items.end * section.rows_per_item;
                    for plane in Plane::ALL {
                        self.plane(buffer, at, layout, plane, section, rows.clone())?;
                        at += plane.bytes(layout, section, items.len());
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes `rows` of a section's codes or scales from byte `at` of the buffer on.
    fn plane(
        &mut self,
        buffer: &A::Buffer,
        mut at: usize,
        layout: Layout,
        plane: Plane,
        section: &Section,
        rows: Range<usize>,
    ) -> Result<(), Error> {
        let stride = plane.stride(layout, section);
        if stride == 0 {
            return Ok(());
        }
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
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn rows(
        &mut self,
        buffer: &A::Buffer,
        at: usize,
        layout: Layout,
        plane: Plane,
        matrix: &MatrixData,
        rows: Range<usize>,
        stride: usize,
    ) -> Result<(), Error> {
        let batch = (WRITE / stride).max(1);
        let mut decoded = Vec::new();
        for first in rows.clone().step_by(batch) {
            let count = batch.min(rows.end - first);
            let offset = (at + (first - rows.start) * stride) as u64;
            let part = matrix.resident(first..first + count)?;
            let mut fill = |row: usize, line: &mut [u8]| {
                match (plane, part.view()?) {
                    (Plane::Codes, _) => layout.write_codes(&part, row, &mut decoded, line)?,
                    (Plane::Scales, MatrixView::Quantized(blocks)) => {
                        layout.write_scales(&blocks, row, line);
                    }
                    (Plane::Scales, MatrixView::Dense { .. }) => {}
                }
                Ok(())
            };
            self.device.write_lines(buffer, offset, count, stride, &mut fill)?;
            self.in_flight += (count * stride) as u64;
            if self.in_flight >= IN_FLIGHT {
                self.finish()?;
            }
        }
        Ok(())
    }

    /// Waits for all writes.
    ///
    /// # Errors
    /// When the device is lost or has no memory.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.in_flight = 0;
        let submission = self.device.commands().submit();
        self.device.wait(Some(submission))
    }
}
