//! Splits mutable data into disjoint parts, one for each task of a [`Team`](super::team::Team).
//!
//! The borrow checker can't see that task 3 writes rows 30 to 39 of a matrix and task 4 rows 40 to
//! 49. These types do such splits here, so that the ops need no `unsafe`.

// This module exists to hand out disjoint `&mut` parts by index.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// Data of which task `i` may use part `i` while others use the other parts.
///
/// # Safety
/// Parts with different indices must not overlap, and `part` must be callable from any thread.
pub(crate) unsafe trait Split: Sync {
    /// A task's part. It borrows the data, not the split.
    type Part;

    /// Part `index`.
    ///
    /// # Safety
    /// While a part is alive, the part of the same index must not be requested again, and the data
    /// must not be used in any other way.
    unsafe fn part(&self, index: usize) -> Self::Part;
}

/// A slice in chunks of equal length. The last may be shorter, and those past the end are empty.
pub(crate) struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    chunk: usize,
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: this stands for a `&mut [T]` whose parts are sent to other threads.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

/// Splits `slice` into chunks of `chunk` elements.
pub(crate) fn chunks<T>(slice: &mut [T], chunk: usize) -> Chunks<'_, T> {
    Chunks { start: slice.as_mut_ptr(), len: slice.len(), chunk, marker: PhantomData }
}

// SAFETY: chunks of different indices are disjoint ranges of one exclusively borrowed slice.
unsafe impl<'a, T: Send> Split for Chunks<'a, T> {
    type Part = &'a mut [T];
    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let first = index.saturating_mul(self.chunk).min(self.len);
        let len = self.chunk.min(self.len - first);
        // SAFETY: `first + len <= self.len`, and the caller requests each index only once at a
        // time.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

/// A row-major matrix split into blocks of whole columns.
pub(crate) struct Columns<'a> {
    start: *mut f32,
    rows: usize,
    stride: usize,
    block: usize,
    width: usize,
    marker: PhantomData<&'a mut [f32]>,
}

// SAFETY: this stands for a `&mut [f32]` whose parts are sent to other threads.
unsafe impl Sync for Columns<'_> {}

/// Splits the matrix `data` into blocks of `block` columns. Rows have `stride` elements, of which
/// the first `width` take part; the last row may end after these.
pub(crate) fn columns(data: &mut [f32], stride: usize, width: usize, block: usize) -> Columns<'_> {
    assert!(width <= stride && stride > 0, "{width} columns of {stride}");
    Columns {
        start: data.as_mut_ptr(),
        // A row ends after its first `width` elements.
        rows: (data.len() + stride - width) / stride,
        stride,
        block,
        width,
        marker: PhantomData,
    }
}

/// Some columns of every row.
pub(crate) struct ColumnBlock<'a> {
    start: *mut f32,
    rows: usize,
    stride: usize,
    /// The range of columns.
    pub range: Range<usize>,
    marker: PhantomData<&'a mut [f32]>,
}

impl ColumnBlock<'_> {
    /// These columns of row `row`.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the row exists, its columns `range` belong to this block alone, and the result
        // borrows the block, so there is no second reference to the same elements.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.start.add(row * self.stride + self.range.start),
                self.range.len(),
            )
        }
    }
}

// SAFETY: blocks of different indices are disjoint columns of one exclusively borrowed matrix. A
// block hands out references to its own columns only.
unsafe impl<'a> Split for Columns<'a> {
    type Part = ColumnBlock<'a>;
    unsafe fn part(&self, index: usize) -> ColumnBlock<'a> {
        let first = index.saturating_mul(self.block).min(self.width);
        ColumnBlock {
            start: self.start,
            rows: self.rows,
            stride: self.stride,
            range: first..first.saturating_add(self.block).min(self.width),
            marker: PhantomData,
        }
    }
}

/// Rows that a task writes, of any kind of matrix.
pub(crate) trait RowsMut {
    /// The range of columns.
    fn range(&self) -> Range<usize>;
    /// These columns of row `row`.
    fn row(&mut self, row: usize) -> &mut [f32];
}

impl RowsMut for ColumnBlock<'_> {
    fn range(&self) -> Range<usize> {
        self.range.clone()
    }
    #[inline(always)]
    fn row(&mut self, row: usize) -> &mut [f32] {
        ColumnBlock::row(self, row)
    }
}

/// Rows of equal width anywhere in a slice that are processed together.
pub(crate) struct Group {
    /// Offset of each row.
    pub offsets: Vec<usize>,
    /// Elements per row.
    pub width: usize,
    /// Columns per task.
    pub block: usize,
}

impl Group {
    fn tasks(&self) -> usize {
        self.width.div_ceil(self.block)
    }
}

/// Groups of scattered rows, each group split into blocks of whole columns.
pub(crate) struct Scattered<'a> {
    start: *mut f32,
    groups: &'a [Group],
    /// `(group, block)` of each task.
    tasks: Vec<(usize, usize)>,
    marker: PhantomData<&'a mut [f32]>,
}

// SAFETY: this stands for a `&mut [f32]` whose parts are sent to other threads.
unsafe impl Sync for Scattered<'_> {}

/// Splits the rows of `groups` out of `data`.
///
/// # Panics
/// If rows overlap or lie outside `data`, which is a bug in the caller.
pub(crate) fn scattered<'a>(data: &'a mut [f32], groups: &'a [Group]) -> Scattered<'a> {
    let rows = groups.iter().flat_map(|g| g.offsets.iter().map(|&o| (o, o + g.width)));
    let mut rows: Vec<(usize, usize)> = rows.collect();
    rows.sort_unstable();
    assert!(rows.is_sorted_by(|a, b| a.1 <= b.0), "rows overlap");
    assert!(rows.last().is_none_or(|last| last.1 <= data.len()), "rows lie outside");
    let tasks = groups.iter().enumerate();
    let tasks = tasks.flat_map(|(g, group)| (0..group.tasks()).map(move |block| (g, block)));
    Scattered { start: data.as_mut_ptr(), groups, tasks: tasks.collect(), marker: PhantomData }
}

impl Scattered<'_> {
    /// The group of each task.
    pub(crate) fn group_of_tasks(&self) -> Vec<usize> {
        self.tasks.iter().map(|(group, _)| *group).collect()
    }
}

/// Some columns of a group's rows.
pub(crate) struct ScatteredBlock<'a> {
    start: *mut f32,
    offsets: &'a [usize],
    range: Range<usize>,
    marker: PhantomData<&'a mut [f32]>,
}

impl RowsMut for ScatteredBlock<'_> {
    fn range(&self) -> Range<usize> {
        self.range.clone()
    }
    #[inline(always)]
    fn row(&mut self, row: usize) -> &mut [f32] {
        let first = self.offsets[row] + self.range.start;
        // SAFETY: rows were checked to be in bounds and disjoint, the columns `range` of this
        // group's rows belong to this block alone, and the result borrows the block.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), self.range.len()) }
    }
}

// SAFETY: rows don't overlap (checked), and blocks of one group have different columns.
unsafe impl<'a> Split for Scattered<'a> {
    type Part = ScatteredBlock<'a>;
    unsafe fn part(&self, index: usize) -> ScatteredBlock<'a> {
        let (group, block) = self.tasks[index];
        let group = &self.groups[group];
        let first = block * group.block;
        ScatteredBlock {
            start: self.start,
            offsets: &group.offsets,
            range: first..group.width.min(first + group.block),
            marker: PhantomData,
        }
    }
}

/// Task `run * per_run + i` gets part `i` of `splits[run]`.
pub(crate) struct PerRun<S> {
    splits: Vec<S>,
    per_run: usize,
}

/// Concatenates several splits of `per_run` parts each.
pub(crate) fn per_run<S>(splits: Vec<S>, per_run: usize) -> PerRun<S> {
    PerRun { splits, per_run }
}

// SAFETY: parts with different indices come from different splits, or have different indices in
// one.
unsafe impl<S: Split> Split for PerRun<S> {
    type Part = S::Part;
    unsafe fn part(&self, index: usize) -> S::Part {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.splits[index / self.per_run].part(index % self.per_run) }
    }
}

// SAFETY: nothing is shared.
unsafe impl Split for () {
    type Part = ();
    unsafe fn part(&self, _: usize) {}
}

// SAFETY: each member's parts are disjoint.
unsafe impl<A: Split, B: Split> Split for (A, B) {
    type Part = (A::Part, B::Part);
    unsafe fn part(&self, index: usize) -> Self::Part {
        // SAFETY: the caller's promise, passed on.
        unsafe { (self.0.part(index), self.1.part(index)) }
    }
}

// SAFETY: each member's parts are disjoint.
unsafe impl<A: Split, B: Split, C: Split> Split for (A, B, C) {
    type Part = (A::Part, B::Part, C::Part);
    unsafe fn part(&self, index: usize) -> Self::Part {
        // SAFETY: the caller's promise, passed on.
        unsafe { (self.0.part(index), self.1.part(index), self.2.part(index)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_slice_once() {
        let mut data = [0u32; 10];
        let split = chunks(&mut data, 4);
        for i in 0..4 {
            // SAFETY: each index once.
            unsafe { split.part(i) }.iter_mut().for_each(|x| *x += i as u32 + 1);
        }
        assert_eq!(data, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
    }

    #[test]
    fn columns_cover_a_matrix_once_and_leave_the_rest() {
        let mut data = [0.0f32; 3 * 7];
        let split = columns(&mut data, 7, 5, 2);
        for i in 0..3 {
            // SAFETY: each index once.
            let mut block = unsafe { split.part(i) };
            for row in 0..3 {
                block.row(row).iter_mut().for_each(|x| *x += (10 * row + i) as f32 + 1.0);
            }
        }
        assert_eq!(data[7..14], [11.0, 11.0, 12.0, 12.0, 13.0, 0.0, 0.0]);
    }

    #[test]
    fn scattered_rows_are_covered_once() {
        let mut data = [0.0f32; 12];
        let groups = [
            Group { offsets: vec![9, 0], width: 3, block: 2 },
            Group { offsets: vec![4], width: 4, block: 4 },
        ];
        let split = scattered(&mut data, &groups);
        assert_eq!(split.group_of_tasks(), [0, 0, 1]);
        for (i, rows) in [2, 2, 1].into_iter().enumerate() {
            // SAFETY: each index once.
            let mut block = unsafe { split.part(i) };
            (0..rows).for_each(|row| {
                block.row(row).iter_mut().for_each(|x| *x += (10 * row + i + 1) as f32)
            });
        }
        assert_eq!(data, [11.0, 11.0, 12.0, 0.0, 3.0, 3.0, 3.0, 3.0, 0.0, 1.0, 1.0, 2.0]);
    }

    #[test]
    #[should_panic(expected = "rows overlap")]
    fn overlapping_rows_are_refused() {
        scattered(&mut [0.0; 9], &[Group { offsets: vec![0, 2], width: 3, block: 3 }]);
    }
}
