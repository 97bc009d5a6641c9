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

    /// A matrix `[rows, columns]` that `write` writes, without the pass over it that zeros would take.
    ///
    /// # Safety
    ///
    /// `write` writes every element by [`write`](Self::write), and takes no part of a row that it has not written.
    pub(super) unsafe fn fill(rows: usize, columns: usize, write: impl FnOnce(&SharedColumns)) -> Vec<f32> {
        let len = rows * columns;
        let mut values: Vec<f32> = Vec::with_capacity(len);
        write(&SharedColumns { values: values.as_mut_ptr(), len, columns, owner: PhantomData });
        // SAFETY: there is room for so many, and the caller promises that they are written.
        unsafe { values.set_len(len) };
        values
    }

    /// Writes the first `width` of some values, or all, into a row from `column` on.
    ///
    /// # Safety
    ///
    /// Nobody else may hold a part of the same row that overlaps, or write to it meanwhile.
    #[inline(always)]
    pub(super) unsafe fn write<const N: usize>(&self, row: usize, column: usize, values: &[f32; N], width: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.write_rows([row, 1], [column, width], std::array::from_ref(values)) }
    }

    /// Writes the upper left corner of some values, `rows` by `width`, at `[row, column]`: all of them, or fewer.
    ///
    /// # Safety
    ///
    /// Nobody else may hold a part of these rows that overlaps, or write to it meanwhile.
    #[inline(always)]
    pub(super) unsafe fn write_rows<const R: usize, const N: usize>(
        &self,
        [row, rows]: [usize; 2],
        [column, width]: [usize; 2],
        values: &[[f32; N]; R],
    ) {
        assert!(
            rows <= R && width <= N && column + width <= self.columns && (row + rows) * self.columns <= self.len,
            "a part outside of the result"
        );
        // SAFETY: the rows lie within what is being filled, and there are as many values; the caller rules out overlaps.
        unsafe {
            let out = self.values.add(row * self.columns + column);
            if width == N {
                // By a few instructions: a copy of a length that the compiler does not know is a call.
                for (row, values) in values[..rows].iter().enumerate() {
                    out.add(row * self.columns).cast::<[f32; N]>().write(*values);
                }
            } else {
                for (row, values) in values[..rows].iter().enumerate() {
                    out.add(row * self.columns).copy_from_nonoverlapping(values.as_ptr(), width);
                }
            }
        }
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
