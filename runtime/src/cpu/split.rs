//! Mutable data that is cut into disjoint parts, one for each task of a [`Team`](super::team::Team).
//!
//! The borrow checker can't see that task 3 writes rows 30 to 39 of a matrix and task 4 rows 40 to 49.
//! These types make such cuts once, here, so that the ops themselves are written without `unsafe`.

// Handing out disjoint `&mut` parts by index is the reason for this module.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// Something of which task `i` may use part `i` while others use the other parts.
///
/// # Safety
/// Parts with different indices must not overlap, and `part` must be callable from any thread.
pub(crate) unsafe trait Split: Sync {
    /// What a task gets; it borrows what was split, not the split.
    type Part;

    /// Part `index`.
    ///
    /// # Safety
    /// While a part is alive, the part of the same index must not be asked for again, nor may what was
    /// split be used in another way.
    unsafe fn part(&self, index: usize) -> Self::Part;
}

/// A slice in chunks of equal length; the last may be shorter, those beyond the end are empty.
pub(crate) struct Chunks<'a, T> {
    start: *mut T,
    len: usize,
    chunk: usize,
    marker: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, whose parts are sent to other threads.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}

/// Cuts `slice` into chunks of `chunk` elements.
pub(crate) fn chunks<T>(slice: &mut [T], chunk: usize) -> Chunks<'_, T> {
    Chunks { start: slice.as_mut_ptr(), len: slice.len(), chunk, marker: PhantomData }
}

// SAFETY: chunks of different indices are disjoint ranges of one exclusively borrowed slice.
unsafe impl<'a, T: Send> Split for Chunks<'a, T> {
    type Part = &'a mut [T];
    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let first = index.saturating_mul(self.chunk).min(self.len);
        let len = self.chunk.min(self.len - first);
        // SAFETY: `first + len <= self.len`, and the caller asks for each index once at a time.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

/// A row-major matrix cut into blocks of whole columns.
pub(crate) struct Columns<'a> {
    start: *mut f32,
    rows: usize,
    stride: usize,
    block: usize,
    width: usize,
    marker: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a `&mut [f32]`, whose parts are sent to other threads.
unsafe impl Sync for Columns<'_> {}

/// Cuts the matrix `data`, rows of `stride` elements of which the first `width` take part, into blocks of
/// `block` columns.
pub(crate) fn columns(data: &mut [f32], stride: usize, width: usize, block: usize) -> Columns<'_> {
    assert!(width <= stride && stride > 0, "{width} columns of {stride}");
    Columns {
        start: data.as_mut_ptr(),
        rows: data.len() / stride,
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
    /// The columns of the matrix that these are.
    pub range: Range<usize>,
    marker: PhantomData<&'a mut [f32]>,
}

impl ColumnBlock<'_> {
    /// These columns of row `row`.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the row exists, its columns `range` belong to this block alone, and the result borrows
        // the block, so that no second reference to the same elements can be had.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.start.add(row * self.stride + self.range.start),
                self.range.len(),
            )
        }
    }
}

// SAFETY: blocks of different indices are disjoint columns of one exclusively borrowed matrix; a block
// gives out references to its own columns only.
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

/// Task `run * per_run + i` gets part `i` of `splits[run]`.
pub(crate) struct PerRun<S> {
    splits: Vec<S>,
    per_run: usize,
}

/// Several splits one behind the other, `per_run` parts each.
pub(crate) fn per_run<S>(splits: Vec<S>, per_run: usize) -> PerRun<S> {
    PerRun { splits, per_run }
}

// SAFETY: parts with different indices come from different splits or have different indices there.
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
}
