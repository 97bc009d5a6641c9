//! The operations on the CPU (`Flex` back end), with SIMD and threads.
//!
//! Work is divided by shape, never by the number of threads, and every reduction has a fixed order: the same inputs give
//! the same bits with any number of threads.

mod attention;
mod columns;
mod dots;
mod gemm;
mod nll;
mod simd;
mod weight;

use crate::layout::{AttentionLayout, RotaryAngles};
use crate::ops::DecoderOps;
use crate::view::{Noise, WeightView};
use attention::Attention;
use burn::tensor::{DType, TensorData};
use burn_flex::{Flex, FlexTensor};
use half::bf16;
use nll::Labels;
use rayon::prelude::*;
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

    fn width(&self) -> usize {
        self.shape()[1]
    }
}

fn matrix(values: Vec<f32>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The single row of `weight` as the rows of every sign see it.
fn weight_rows(weight: &WeightMatrix) -> [Vec<f32>; 2] {
    let mut first = vec![0.0; weight.columns];
    let mut second = vec![0.0; weight.columns];
    weight.read(0, 0, [&mut first, &mut second]);
    [first, second]
}

impl DecoderOps for Flex {
    fn project(x: FlexTensor, weight: FlexTensor, view: WeightView) -> FlexTensor {
        let x = Activations::new(x);
        let weight = WeightMatrix::new(&weight, &view);
        let y = dots::product(x.values(), &weight);
        matrix(y, [x.shape()[0], weight.rows])
    }

    fn project_backward(grad: FlexTensor, weight: FlexTensor, view: WeightView) -> FlexTensor {
        let grad = Activations::new(grad);
        let weight = WeightMatrix::new(&weight, &view);
        let dx = gemm::product(grad.values(), &weight);
        matrix(dx, [grad.shape()[0], weight.columns])
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

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32, view: WeightView) -> FlexTensor {
        let x = Activations::new(x);
        let [rows, width] = x.shape();
        let weight = WeightMatrix::new(&weight, &view);
        let weights = weight_rows(&weight);
        let share = rows / weight.signs();
        let mut out = vec![0.0f32; rows * width];
        let pairs = out.par_chunks_exact_mut(width).zip(x.values().par_chunks_exact(width));
        pairs.enumerate().for_each(|(row, (out, x))| {
            simd::rms_norm(x, &weights[row / share], eps, out);
        });
        matrix(out, [rows, width])
    }

    fn rms_norm_backward(
        grad: FlexTensor,
        x: FlexTensor,
        weight: FlexTensor,
        eps: f32,
        view: WeightView,
    ) -> FlexTensor {
        let (x, grad) = (Activations::new(x), Activations::new(grad));
        let [rows, width] = x.shape();
        let weight = WeightMatrix::new(&weight, &view);
        let weights = weight_rows(&weight);
        let share = rows / weight.signs();
        let mut out = vec![0.0f32; rows * width];
        let inputs = grad.values().par_chunks_exact(width).zip(x.values().par_chunks_exact(width));
        let pairs = out.par_chunks_exact_mut(width).zip(inputs);
        pairs.enumerate().for_each(|(row, (out, (grad, x)))| {
            simd::rms_norm_backward(grad, x, &weights[row / share], eps, out);
        });
        matrix(out, [rows, width])
    }

    fn rotary(x: FlexTensor, angles: RotaryAngles) -> FlexTensor {
        let x = Activations::new(x);
        let (width, half) = (x.width(), angles.half);
        let mut out = vec![0.0f32; x.values().len()];
        let tables = angles.cos.par_chunks_exact(half).zip(angles.sin.par_chunks_exact(half));
        let pairs = out.par_chunks_exact_mut(width).zip(x.values().par_chunks_exact(width));
        pairs.zip(tables).for_each(|((out, x), (cos, sin))| {
            let heads = out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half));
            heads.for_each(|(out, x)| simd::rotate(x, cos, sin, out));
        });
        matrix(out, x.shape())
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

    fn silu_mul(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let [gate, up] = [gate, up].map(Activations::new);
        let width = gate.width();
        let mut out = vec![0.0f32; gate.values().len()];
        let inputs = gate.values().par_chunks_exact(width).zip(up.values().par_chunks_exact(width));
        out.par_chunks_exact_mut(width).zip(inputs).for_each(|(out, (gate, up))| {
            simd::silu_mul(gate, up, out);
        });
        matrix(out, gate.shape())
    }

    fn silu_mul_backward(grad: FlexTensor, gate: FlexTensor, up: FlexTensor) -> (FlexTensor, FlexTensor) {
        let [grad, gate, up] = [grad, gate, up].map(Activations::new);
        let width = gate.width();
        let mut d_gate = vec![0.0f32; gate.values().len()];
        let mut d_up = d_gate.clone();
        let inputs = grad.values().par_chunks_exact(width);
        let inputs = inputs.zip(gate.values().par_chunks_exact(width));
        let inputs = inputs.zip(up.values().par_chunks_exact(width));
        let outputs = d_gate.par_chunks_exact_mut(width).zip(d_up.par_chunks_exact_mut(width));
        outputs.zip(inputs).for_each(|((d_gate, d_up), ((grad, gate), up))| {
            simd::silu_mul_backward(grad, gate, up, d_gate, d_up);
        });
        (matrix(d_gate, gate.shape()), matrix(d_up, gate.shape()))
    }

    fn token_nll(hidden: FlexTensor, weight: FlexTensor, targets: Arc<[u32]>, view: WeightView) -> FlexTensor {
        let hidden = Activations::new(hidden);
        let labels = Labels { hidden: hidden.values(), targets: &targets };
        let nll = labels.nll(&WeightMatrix::new(&weight, &view));
        matrix(nll, [hidden.shape()[0], 1])
    }

    fn token_nll_backward(
        grad: FlexTensor,
        hidden: FlexTensor,
        weight: FlexTensor,
        targets: Arc<[u32]>,
        view: WeightView,
    ) -> FlexTensor {
        let [grad, hidden] = [grad, hidden].map(Activations::new);
        let labels = Labels { hidden: hidden.values(), targets: &targets };
        let gradient = labels.backward(grad.values(), &WeightMatrix::new(&weight, &view));
        matrix(gradient, hidden.shape())
    }

    fn descend(mut weight: FlexTensor, noise: Noise, coefficient: f32) -> FlexTensor {
        // A shared weight would be copied silently: θ once more in memory. Evaluations must have ended.
        const SHARED: &str = "a weight is updated while something else still holds it";
        match weight.dtype() {
            DType::F32 => {
                let values = weight.try_storage_mut::<f32>().expect(SHARED);
                let chunks = values.par_chunks_mut(UPDATE_CHUNK).enumerate();
                chunks.for_each(|(i, w)| noise.update_f32(i * UPDATE_CHUNK, w, coefficient));
            }
            DType::BF16 => {
                let values = weight.try_storage_mut::<bf16>().expect(SHARED);
                let chunks = values.par_chunks_mut(UPDATE_CHUNK).enumerate();
                chunks.for_each(|(i, w)| noise.update_bf16(i * UPDATE_CHUNK, w, coefficient));
            }
            other => panic!("weights are stored as f32 or bf16, not {other:?}"),
        }
        weight
    }
}
