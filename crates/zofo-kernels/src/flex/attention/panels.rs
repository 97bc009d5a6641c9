//! How rows are arranged for the register blocks of x·W.

use crate::flex::gemm::Kernel;

/// Rows of `width` as the lanes of panels, `[panel][width][LANES]`: lane by lane a row, the last ones zero. What one panel
/// multiplies is reduced over `width`.
pub(super) fn as_lanes<'a, const LANES: usize>(
    rows: impl ExactSizeIterator<Item = &'a [f32]>,
    width: usize,
    panels: &mut Vec<f32>,
) {
    panels.clear();
    panels.resize(rows.len().next_multiple_of(LANES) * width, 0.0);
    for (i, row) in rows.enumerate() {
        let panel = &mut panels[i / LANES * LANES * width..][..LANES * width];
        for (slot, value) in panel[i % LANES..].iter_mut().step_by(LANES).zip(row) {
            *slot = *value;
        }
    }
}

/// Rows of `width` cut into panels of `LANES` columns, `[panel][row][LANES]`, the last columns zero. What one panel
/// multiplies is reduced over the rows.
pub(super) fn as_steps<'a, const LANES: usize>(
    rows: impl ExactSizeIterator<Item = &'a [f32]>,
    width: usize,
    panels: &mut Vec<f32>,
) {
    let count = rows.len();
    panels.clear();
    panels.resize(width.next_multiple_of(LANES) * count, 0.0);
    for (i, row) in rows.enumerate() {
        for (values, panel) in row.chunks(LANES).zip(panels.chunks_exact_mut(LANES * count)) {
            panel[i * LANES..i * LANES + values.len()].copy_from_slice(values);
        }
    }
}

/// Products of one panel of rows with all panels of `w`, reduced over `depth`: `[rows][width]`.
pub(super) fn multiply<const R: usize, const C: usize>(
    kernel: &Kernel<f32, R, C>,
    x: &[f32],
    w: &[f32],
    depth: usize,
    out: &mut Vec<f32>,
) {
    let width = w.len() / depth;
    out.resize(R * width, 0.0);
    for (j, panel) in w.chunks_exact(C * depth).enumerate() {
        for (out, products) in out.chunks_exact_mut(width).zip(&(kernel.0)(x, panel)) {
            out[j * C..(j + 1) * C].copy_from_slice(products);
        }
    }
}
