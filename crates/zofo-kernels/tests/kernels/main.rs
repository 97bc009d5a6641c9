//! The CPU kernels against their specification, and the hand-written gradients against Burn's autodiff of it.
//!
//! Gradients are taken through the operations of `Autodiff<Flex>`, so what is compared includes what they record.

mod activation;
mod attention;
mod linear;
mod nll;
mod norm;
mod rotary;
mod update;

use burn::backend::Autodiff;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::TensorData;
use burn_flex::{Flex, FlexTensor};
use std::sync::Arc;
use zofo_kernels::direction::{Direction, ParameterId};
use zofo_kernels::{Activation, Compute, DecoderOps, Noise, WeightView};

type Ad = Autodiff<Flex>;

/// Pseudo-random values in about ±2, the same on every run.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    Direction::new(seed, ParameterId::from_name("test")).fill(0, &mut out);
    out
}

fn matrix(seed: u64, rows: usize, columns: usize) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values(seed, rows * columns), [rows, columns]))
}

fn bf16(x: &FlexTensor) -> FlexTensor {
    Flex::float_cast(x.clone(), burn::tensor::FloatDType::BF16)
}

fn noise() -> Noise {
    Noise::Generated(Direction::new(7, ParameterId::from_name("weight")))
}

fn views() -> [WeightView; 3] {
    [WeightView::Exact, WeightView::One { noise: noise(), scale: 0.1 }, WeightView::Pair { noise: noise(), eps: 0.1 }]
}

fn floats(x: &FlexTensor) -> Vec<f32> {
    x.to_contiguous().as_slice::<f32>().expect("f32").to_vec()
}

#[track_caller]
fn assert_close(fast: &FlexTensor, exact: &FlexTensor, tolerance: f32) {
    assert_eq!(fast.layout().shape(), exact.layout().shape());
    let (fast, exact) = (floats(fast), floats(exact));
    let scale = exact.iter().fold(1.0f32, |a, b| a.max(b.abs()));
    for (i, (fast, exact)) in fast.iter().zip(&exact).enumerate() {
        let error = (fast - exact).abs();
        assert!(error <= tolerance * scale, "element {i}: {fast} for {exact}");
    }
}

/// A weight, which has no gradient.
fn constant(x: &FlexTensor) -> FloatTensor<Ad> {
    FloatTensor::<Ad>::new(x.clone())
}

/// The gradients of Σ weights ∘ f(inputs), by Burn's autodiff.
fn gradients(
    inputs: &[&FlexTensor],
    weights: &FlexTensor,
    f: impl Fn(&[FloatTensor<Ad>]) -> FloatTensor<Ad>,
) -> Vec<FlexTensor> {
    let inputs: Vec<FloatTensor<Ad>> = inputs.iter().map(|x| constant(x).require_grad()).collect();
    let loss = Ad::float_sum(Ad::float_mul(f(&inputs), constant(weights)));
    let gradients = loss.backward();
    inputs.iter().map(|x| x.grad(&gradients).expect("input is tracked")).collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (x, w) = (matrix(1, 54, 700), matrix(2, 300, 700));
    let (row, ones) = (matrix(3, 1, 700), matrix(4, 54, 1));
    let layout = Arc::new(attention::layout());
    let [q, grad] = [5, 6].map(|seed| matrix(seed, layout.query_positions.len(), 24));
    let [k, v] = [7, 8].map(|seed| matrix(seed, layout.key_positions.len(), 12));
    let targets: Arc<[u32]> = (0..27).collect();
    let precisions = [Compute::F32, Compute::Bf16];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let view = WeightView::Pair { noise: noise(), eps: 1e-3 };
        pool.install(|| {
            let [y, y16] = precisions.map(|compute| Flex::project(x.clone(), w.clone(), view.clone(), compute));
            let [dx, dx16] =
                precisions.map(|compute| Flex::project_transposed(y.clone(), w.clone(), view.clone(), compute));
            let norm = <Flex as DecoderOps>::layer_norm(
                x.clone(),
                row.clone(),
                row.clone(),
                1e-5,
                view.clone(),
                WeightView::Exact,
            );
            let dk = Flex::attend_backward(grad.clone(), q.clone(), k.clone(), v.clone(), layout.clone()).1;
            let gated = Flex::gated(x.clone(), dx.clone(), Activation::Gelu);
            let cap = Some(20.0);
            let nll = Flex::token_nll(x.clone(), w.clone(), targets.clone(), cap, view.clone(), Compute::F32);
            let dh =
                Flex::token_nll_backward(ones.clone(), x.clone(), w.clone(), targets.clone(), cap, view, Compute::F32);
            let moved = Flex::descend(matrix(3, 300, 700), noise(), 0.5.into());
            [y, y16, dx, dx16, norm, dk, gated, nll, dh, moved].map(|x| floats(&x)).concat()
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}
