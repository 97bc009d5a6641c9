//! Reading a weight matrix through its view, tile by tile.

use super::round;
use crate::view::WeightView;
use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::bf16;
use std::ops::Range;
use std::slice::Chunks;

/// Bytes.
const CACHE_LINE: usize = 64;

/// Lines at a time up to which they are loaded into the first-level cache.
const NEAR: usize = 16;

/// The stored values of a weight.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// A format in which kernels take weights.
pub(super) trait Stored: Copy + Default + Send + Sync {
    /// The values, if they are in this format.
    fn stored(values: Values<'_>) -> Option<&[Self]>;

    /// [`WeightMatrix::read`] in this format.
    fn read(weight: &WeightMatrix, row: usize, column: usize, out: [&mut [Self]; 2]);
}

impl Stored for f32 {
    fn stored(values: Values<'_>) -> Option<&[Self]> {
        match values {
            Values::F32(values) => Some(values),
            Values::Bf16(_) => None,
        }
    }

    fn read(weight: &WeightMatrix, row: usize, column: usize, out: [&mut [Self]; 2]) {
        weight.read(row, column, out);
    }
}

/// Weights that are formed in f32 at once before they are rounded: whole groups of a direction.
const ROUNDED: usize = 1024;

impl Stored for bf16 {
    fn stored(values: Values<'_>) -> Option<&[Self]> {
        match values {
            Values::F32(_) => None,
            Values::Bf16(values) => Some(values),
        }
    }

    fn read(weight: &WeightMatrix, row: usize, column: usize, [first, second]: [&mut [Self]; 2]) {
        let mut buffers = [[0.0f32; ROUNDED]; 2];
        let [plus, minus] = &mut buffers;
        let mut start = column;
        // Without a second sign its slice is empty, and there are no chunks of it.
        let mut second = second.chunks_mut(ROUNDED);
        for first in first.chunks_mut(ROUNDED) {
            let (plus, minus) = (&mut plus[..first.len()], &mut minus[..first.len()]);
            weight.read(row, start, [plus, minus]);
            round::to_bf16(plus, first);
            if let Some(second) = second.next() {
                round::to_bf16(minus, second);
            }
            start += first.len();
        }
    }
}

/// Memory that is needed soon, in lines of a cache, of which a kernel asks for a few at a time: many at once would hold up
/// what it loads itself.
pub(super) struct Ahead<'a>(Chunks<'a, u8>);

impl Ahead<'_> {
    /// How many lines are left.
    pub(super) fn lines(&self) -> usize {
        self.0.len()
    }

    /// Begins to load the next `lines`, or those that are left, into the caches, where the processor can be told to.
    #[inline(always)]
    pub(super) fn prefetch(&mut self, lines: usize) {
        let lines = self.0.by_ref().take(lines);
        // What is little beside the kernel's own loads pays in the first-level cache; much would push those out of it.
        if lines.len() <= NEAR { lines.for_each(prefetch::<1>) } else { lines.for_each(prefetch::<2>) }
    }
}

/// Begins to load a line into the cache of a level.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
fn prefetch<const LEVEL: u8>(line: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch changes nothing but caches.
        unsafe {
            if LEVEL == 1 {
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
            }
        }
    }
}

/// A weight matrix `[rows, columns]`, read through a [`WeightView`].
#[derive(Clone, Copy)]
pub(super) struct WeightMatrix<'a> {
    values: Values<'a>,
    view: &'a WeightView,
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Whether values are read as the nearest bf16.
    rounded: bool,
}

impl<'a> WeightMatrix<'a> {
    /// `tensor` must be contiguous, which weights are from the moment they are loaded.
    pub(super) fn new(tensor: &'a FlexTensor, view: &'a WeightView) -> Self {
        let shape = tensor.layout().shape();
        let (rows, columns) = (shape[0], shape[1]);
        let values = match tensor.dtype() {
            DType::F32 => tensor.as_slice::<f32>().map(Values::F32),
            DType::BF16 => tensor.as_slice::<bf16>().map(Values::Bf16),
            other => panic!("weights are stored as f32 or bf16, not {other:?}"),
        };
        let values = values.expect("weights are contiguous");
        Self { values, view, columns, rows, rounded: false }
    }

    /// The same matrix with every value rounded to bf16, for kernels that multiply in f32.
    pub(super) fn rounded(self) -> Self {
        Self { rounded: !self.is_exact_bf16(), ..self }
    }

    /// Number of weights that are read at once: 2 for a pair, else 1.
    pub(super) fn signs(&self) -> usize {
        self.view.signs()
    }

    /// Whether the weight is stored as bf16 and seen as it is stored.
    pub(super) fn is_exact_bf16(&self) -> bool {
        matches!((self.view, self.values), (WeightView::Exact, Values::Bf16(_)))
    }

    /// `len` stored values of a row, if they can be used as they are.
    pub(super) fn borrow<W: Stored>(&self, row: usize, column: usize, len: usize) -> Option<&'a [W]> {
        let start = row * self.columns + column;
        if self.rounded || !matches!(self.view, WeightView::Exact) {
            return None;
        }
        W::stored(self.values).map(|values| &values[start..start + len])
    }

    /// A part of the stored values, which are row-major, to load ahead of its use.
    pub(super) fn ahead(&self, part: Range<usize>) -> Ahead<'a> {
        let bytes = match self.values {
            Values::F32(values) => bytemuck::cast_slice(&values[part]),
            Values::Bf16(values) => bytemuck::cast_slice(&values[part]),
        };
        Ahead(bytes.chunks(CACHE_LINE))
    }

    /// Writes `len` elements of a row, as every sign sees them, to `out[sign]`. `out[1]` is left alone
    /// unless the view is a pair.
    pub(super) fn read(&self, row: usize, column: usize, [first, second]: [&mut [f32]; 2]) {
        let start = row * self.columns + column;
        let end = start + first.len();
        match self.values {
            Values::F32(values) => read(self.view, start, &values[start..end], [first, second]),
            Values::Bf16(values) => read(self.view, start, &values[start..end], [first, second]),
        }
        if self.rounded {
            round::in_place(first);
            if self.signs() == 2 {
                round::in_place(second);
            }
        }
    }
}

fn read<W: crate::direction::Weight>(view: &WeightView, start: usize, values: &[W], [first, second]: [&mut [f32]; 2]) {
    match view {
        WeightView::Exact => {
            for (out, value) in first.iter_mut().zip(values) {
                *out = value.widen();
            }
        }
        WeightView::One { noise, scale } => noise.perturb(start, values, *scale, first),
        WeightView::Pair { noise, eps } => noise.perturb_pair(start, values, *eps, first, second),
    }
}
