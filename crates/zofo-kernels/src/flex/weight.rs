//! Reading a weight matrix through its view, tile by tile.

use crate::view::WeightView;
use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::bf16;

/// The stored values of a weight.
#[derive(Clone, Copy)]
enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// A weight matrix `[rows, columns]`, read through a [`WeightView`].
#[derive(Clone, Copy)]
pub(super) struct WeightMatrix<'a> {
    values: Values<'a>,
    view: &'a WeightView,
    pub(super) columns: usize,
    pub(super) rows: usize,
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
        Self { values, view, columns, rows }
    }

    /// Number of weights that are read at once: 2 for a pair, else 1.
    pub(super) fn signs(&self) -> usize {
        self.view.signs()
    }

    /// The stored values from `start`, if they can be used as they are.
    pub(super) fn borrow(&self, row: usize, column: usize, len: usize) -> Option<&'a [f32]> {
        match (self.view, self.values) {
            (WeightView::Exact, Values::F32(values)) => {
                let start = row * self.columns + column;
                Some(&values[start..start + len])
            }
            _ => None,
        }
    }

    /// Writes `len` elements of a row, as every sign sees them, to `out[sign]`. `out[1]` is left alone
    /// unless the view is a pair.
    pub(super) fn read(&self, row: usize, column: usize, out: [&mut [f32]; 2]) {
        let start = row * self.columns + column;
        let end = start + out[0].len();
        match self.values {
            Values::F32(values) => read(self.view, start, &values[start..end], out),
            Values::Bf16(values) => read(self.view, start, &values[start..end], out),
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
