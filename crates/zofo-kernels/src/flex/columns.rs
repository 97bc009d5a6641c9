//! A row-major result that several threads write at once, each in columns of its own.

use std::marker::PhantomData;

/// A matrix `[rows, columns]` being written by columns.
pub(super) struct SharedColumns<'a> {
    values: *mut f32,
    len: usize,
    columns: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: all writes go through `row_part`, whose callers promise that no two threads write the same columns.
unsafe impl Sync for SharedColumns<'_> {}

impl<'a> SharedColumns<'a> {
    pub(super) fn new(values: &'a mut [f32], columns: usize) -> Self {
        Self { values: values.as_mut_ptr(), len: values.len(), columns, owner: PhantomData }
    }

    /// `width` values of a row from `column`.
    ///
    /// # Safety
    ///
    /// While the result lives, nobody else may hold a part of the same row that overlaps.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub(super) unsafe fn row_part(&self, row: usize, column: usize, width: usize) -> &mut [f32] {
        let start = row * self.columns + column;
        assert!(column + width <= self.columns && start + width <= self.len, "a part outside of the result");
        // SAFETY: the range lies within the slice that `new` borrowed mutably for 'a; the caller rules out overlaps.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(start), width) }
    }
}
