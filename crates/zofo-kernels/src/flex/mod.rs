//! The operations on the CPU (`Flex` back end), with SIMD and threads.
//!
//! Work is divided by shape, never by the number of threads, and every reduction has a fixed order: the same inputs give
//! the same bits with any number of threads.

mod attention;
mod columns;
mod dots;
mod gemm;
mod nll;
mod round;
mod simd;
mod weight;

use crate::activation::Activation;
use crate::compute::Compute;
use crate::direction::Descent;
use crate::layout::{AttentionLayout, RotaryAngles};
use crate::ops::DecoderOps;
use crate::view::{Noise, WeightView};
use attention::Attention;
use burn::tensor::{DType, TensorData};
use burn_flex::{Flex, FlexTensor};
use half::bf16;
use nll::Labels;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::sync::Arc;
use weight::WeightMatrix;

/// Elements of a weight that one task updates: whole groups of a direction.
const UPDATE_CHUNK: usize = 1 << 16;

/// f32 activations in one piece, and the number of their rows and columns.
struct Activations(FlexTensor);

impl Activations {
    fn new(tensor: FlexTensor) -> Self {
        Self(tensor.to_contiguous())
    }

    fn values(&self) -> &[f32] {
        self.0.as_slice().expect("activations are f32, and contiguous since `new`")
    }

    fn shape(&self) -> [usize; 2] {
        let shape = self.0.layout().shape();
        [shape[0], shape[1]]
    }

    fn row(&self, row: usize) -> &[f32] {
        let width = self.shape()[1];
        &self.values()[row * width..(row + 1) * width]
    }

    /// A matrix of the same shape, whose rows `f` writes, given their indices and those of this one.
    fn map_rows(&self, f: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> FlexTensor {
        new_rows(self.shape(), |row, out| f(row, self.row(row), out))
    }

    /// [`map_rows`](Self::map_rows) with the rows of another matrix of this shape besides.
    fn zip_rows(&self, other: &Self, f: impl Fn(usize, [&[f32]; 2], &mut [f32]) + Sync) -> FlexTensor {
        new_rows(self.shape(), |row, out| f(row, [self.row(row), other.row(row)], out))
    }
}

/// A matrix whose rows `write` writes; they are zero before.
fn new_rows([rows, width]: [usize; 2], write: impl Fn(usize, &mut [f32]) + Sync) -> FlexTensor {
    let values = new_values(rows * width, width, || (), |(), row, out| write(row, out));
    matrix(values, [rows, width])
}

/// Two matrices of one shape, whose rows `write` writes together.
fn new_row_pairs([rows, width]: [usize; 2], write: impl Fn(usize, [&mut [f32]; 2]) + Sync) -> [FlexTensor; 2] {
    let mut pair: [Vec<f32>; 2] = [(); 2].map(|()| Vec::with_capacity(rows * width));
    let [first, second] =
        pair.each_mut().map(|values| values.spare_capacity_mut()[..rows * width].par_chunks_exact_mut(width));
    first.zip(second).enumerate().for_each(|(row, (first, second))| {
        let out = [first, second].map(|out| {
            out.fill(MaybeUninit::new(0.0));
            // SAFETY: all of it has just been written.
            unsafe { out.assume_init_mut() }
        });
        write(row, out);
    });
    pair.map(|mut values| {
        // SAFETY: the rows are all of it, and each has been written.
        unsafe { values.set_len(rows * width) };
        matrix(values, [rows, width])
    })
}

/// Values that `write` writes in pieces of `piece`, given something that a thread keeps, the index of a piece, and the piece,
/// which is cleared by the thread that writes it: one thread would take long for all.
fn new_values<T: Copy + Default + Send, S>(
    len: usize,
    piece: usize,
    init: impl Fn() -> S + Send + Sync,
    write: impl Fn(&mut S, usize, &mut [T]) + Sync,
) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(len);
    let room = &mut values.spare_capacity_mut()[..len];
    room.par_chunks_mut(piece).enumerate().for_each_init(init, |kept, (index, out)| {
        out.fill(MaybeUninit::new(T::default()));
        // SAFETY: all of it has just been written.
        write(kept, index, unsafe { out.assume_init_mut() });
    });
    // SAFETY: the pieces are all of it, and each has been written.
    unsafe { values.set_len(len) };
    values
}

fn matrix(values: Vec<f32>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// A weight of one row, as the rows of every sign see it.
struct RowWeight {
    signs: [Vec<f32>; 2],
    /// Activation rows per sign.
    share: usize,
}

impl RowWeight {
    /// For `rows` rows of activations.
    fn new(weight: &FlexTensor, view: &WeightView, rows: usize) -> Self {
        let weight = WeightMatrix::new(weight, view);
        let mut signs = [vec![0.0; weight.columns], vec![0.0; weight.columns]];
        let [first, second] = &mut signs;
        weight.read(0, 0, [first, second]);
        Self { signs, share: rows / weight.signs() }
    }

    /// 1 + w instead of w, if asked.
    fn plus_one_if(mut self, offset: bool) -> Self {
        if offset {
            self.signs.iter_mut().flatten().for_each(|w| *w += 1.0);
        }
        self
    }

    /// What row `row` of the activations sees.
    fn at(&self, row: usize) -> &[f32] {
        &self.signs[row / self.share]
    }
}

impl DecoderOps for Flex {
    fn project(x: FlexTensor, weight: FlexTensor, view: WeightView, compute: Compute) -> FlexTensor {
        let x = Activations::new(x);
        // Along a direction of low rank no perturbed weight is formed.
        let low_rank = view.low_rank();
        let seen = if low_rank.is_some() { &WeightView::Exact } else { &view };
        let weight = WeightMatrix::new(&weight, seen);
        let mut y = dots::product(x.values(), &weight, compute);
        if let Some((z, scales)) = &low_rank {
            z.add_product(x.values(), &mut y, scales);
        }
        matrix(y, [x.shape()[0], weight.rows])
    }

    fn project_transposed(x: FlexTensor, weight: FlexTensor, view: WeightView, compute: Compute) -> FlexTensor {
        let x = Activations::new(x);
        // Along a direction of low rank no perturbed weight is formed.
        let low_rank = view.low_rank();
        let seen = if low_rank.is_some() { &WeightView::Exact } else { &view };
        let weight = WeightMatrix::new(&weight, seen);
        let mut y = gemm::product(x.values(), &weight, compute);
        if let Some((z, scales)) = &low_rank {
            z.add_product_transposed(x.values(), &mut y, scales);
        }
        matrix(y, [x.shape()[0], weight.columns])
    }

    fn add_bias(x: FlexTensor, bias: FlexTensor, view: WeightView) -> FlexTensor {
        let Activations(mut x) = Activations::new(x);
        let shape = x.layout().shape();
        let (rows, width) = (shape[0], shape[1]);
        let bias = RowWeight::new(&bias, &view, rows);
        // In place unless something else holds the activations.
        let values = x.storage_mut::<f32>().par_chunks_exact_mut(width);
        values.enumerate().for_each(|(row, x)| simd::axpy(1.0, bias.at(row), x));
        x
    }

    fn embed(weight: FlexTensor, ids: Arc<[u32]>, view: WeightView) -> FlexTensor {
        let weight = WeightMatrix::new(&weight, &view);
        let (count, width) = (ids.len(), weight.columns);
        let mut out = vec![0.0f32; weight.signs() * count * width];
        let (first, second) = out.split_at_mut(count * width);
        if second.is_empty() {
            let rows = first.par_chunks_exact_mut(width).zip(&*ids);
            rows.for_each(|(out, &id)| weight.read(id as usize, 0, [out, &mut []]));
        } else {
            let pairs = first.par_chunks_exact_mut(width).zip(second.par_chunks_exact_mut(width));
            let rows = pairs.zip(&*ids);
            rows.for_each(|((plus, minus), &id)| weight.read(id as usize, 0, [plus, minus]));
        }
        matrix(out, [weight.signs() * count, width])
    }

    fn layer_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        eps: f32,
        weight_view: WeightView,
        bias_view: WeightView,
    ) -> FlexTensor {
        let x = Activations::new(x);
        let rows = x.shape()[0];
        let weight = RowWeight::new(&weight, &weight_view, rows);
        let bias = RowWeight::new(&bias, &bias_view, rows);
        x.map_rows(|row, x, out| simd::layer_norm(x, weight.at(row), bias.at(row), eps, out))
    }

    fn layer_norm_backward(
        grad: FlexTensor,
        x: FlexTensor,
        weight: FlexTensor,
        eps: f32,
        weight_view: WeightView,
    ) -> FlexTensor {
        let (grad, x) = (Activations::new(grad), Activations::new(x));
        let weight = RowWeight::new(&weight, &weight_view, x.shape()[0]);
        grad.zip_rows(&x, |row, [grad, x], out| simd::layer_norm_backward(grad, x, weight.at(row), eps, out))
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32, unit_offset: bool, view: WeightView) -> FlexTensor {
        let x = Activations::new(x);
        let weight = RowWeight::new(&weight, &view, x.shape()[0]).plus_one_if(unit_offset);
        x.map_rows(|row, x, out| simd::rms_norm(x, weight.at(row), eps, out))
    }

    fn rms_norm_backward(
        grad: FlexTensor,
        x: FlexTensor,
        weight: FlexTensor,
        eps: f32,
        unit_offset: bool,
        view: WeightView,
    ) -> FlexTensor {
        let (grad, x) = (Activations::new(grad), Activations::new(x));
        let weight = RowWeight::new(&weight, &view, x.shape()[0]).plus_one_if(unit_offset);
        grad.zip_rows(&x, |row, [grad, x], out| simd::rms_norm_backward(grad, x, weight.at(row), eps, out))
    }

    fn rotary(x: FlexTensor, angles: RotaryAngles) -> FlexTensor {
        let x = Activations::new(x);
        let (half, head_dim) = (angles.half, angles.head_dim);
        x.map_rows(|row, x, out| {
            let table = row * half..(row + 1) * half;
            let (cos, sin) = (&angles.cos[table.clone()], &angles.sin[table]);
            for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                let ((out, out_rest), (x, x_rest)) = (out.split_at_mut(2 * half), x.split_at(2 * half));
                simd::rotate(x, cos, sin, out);
                out_rest.copy_from_slice(x_rest);
            }
        })
    }

    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor, layout: Arc<AttentionLayout>) -> FlexTensor {
        let [q, k, v] = [q, k, v].map(Activations::new);
        let (q_values, k, v) = (q.values(), k.values(), v.values());
        let out = Attention { q: q_values, k, v, layout: &layout }.forward();
        matrix(out, q.shape())
    }

    fn attend_backward(
        grad: FlexTensor,
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        layout: Arc<AttentionLayout>,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [grad, q, k, v] = [grad, q, k, v].map(Activations::new);
        let inputs = Attention { q: q.values(), k: k.values(), v: v.values(), layout: &layout };
        let gradients = inputs.backward(grad.values());
        (matrix(gradients.q, q.shape()), matrix(gradients.k, k.shape()), matrix(gradients.v, v.shape()))
    }

    fn activate(x: FlexTensor, activation: Activation) -> FlexTensor {
        Activations::new(x).map_rows(|_, x, out| simd::activate(x, activation, out))
    }

    fn activate_backward(grad: FlexTensor, x: FlexTensor, activation: Activation) -> FlexTensor {
        let [grad, x] = [grad, x].map(Activations::new);
        grad.zip_rows(&x, |_, [grad, x], out| simd::activate_backward(grad, x, activation, out))
    }

    fn gated(gate: FlexTensor, up: FlexTensor, activation: Activation) -> FlexTensor {
        let [gate, up] = [gate, up].map(Activations::new);
        gate.zip_rows(&up, |_, [gate, up], out| simd::gated(gate, up, activation, out))
    }

    fn gated_backward(
        grad: FlexTensor,
        gate: FlexTensor,
        up: FlexTensor,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor) {
        let [grad, gate, up] = [grad, gate, up].map(Activations::new);
        let gradients = new_row_pairs(gate.shape(), |row, [d_gate, d_up]| {
            simd::gated_backward(grad.row(row), gate.row(row), up.row(row), activation, d_gate, d_up);
        });
        gradients.into()
    }

    fn token_nll(
        hidden: FlexTensor,
        weight: FlexTensor,
        targets: Arc<[u32]>,
        softcap: Option<f32>,
        view: WeightView,
        compute: Compute,
    ) -> FlexTensor {
        let hidden = Activations::new(hidden);
        let labels = Labels { hidden: hidden.values(), targets: &targets, softcap, compute };
        let nll = labels.nll(&WeightMatrix::new(&weight, &view));
        matrix(nll, [hidden.shape()[0], 1])
    }

    fn token_nll_backward(
        grad: FlexTensor,
        hidden: FlexTensor,
        weight: FlexTensor,
        targets: Arc<[u32]>,
        softcap: Option<f32>,
        view: WeightView,
        compute: Compute,
    ) -> FlexTensor {
        let [grad, hidden] = [grad, hidden].map(Activations::new);
        let labels = Labels { hidden: hidden.values(), targets: &targets, softcap, compute };
        let gradient = labels.backward(grad.values(), &WeightMatrix::new(&weight, &view));
        matrix(gradient, hidden.shape())
    }

    fn descend(mut weight: FlexTensor, noise: Noise, step: Descent) -> FlexTensor {
        // A shared weight would be copied silently: θ once more in memory. Evaluations must have ended.
        const SHARED: &str = "a weight is updated while something else still holds it";
        match weight.dtype() {
            DType::F32 => {
                let values = weight.try_storage_mut::<f32>().expect(SHARED);
                let chunks = values.par_chunks_mut(UPDATE_CHUNK).enumerate();
                chunks.for_each(|(i, w)| noise.update_f32(i * UPDATE_CHUNK, w, step));
            }
            DType::BF16 => {
                let values = weight.try_storage_mut::<bf16>().expect(SHARED);
                let chunks = values.par_chunks_mut(UPDATE_CHUNK).enumerate();
                chunks.for_each(|(i, w)| noise.update_bf16(i * UPDATE_CHUNK, w, step));
            }
            other => panic!("weights are stored as f32 or bf16, not {other:?}"),
        }
        weight
    }
}
