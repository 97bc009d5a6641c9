//! GFLOP/s of the products with a weight, by shape: `cargo bench --workspace --bench project`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType, TensorData};
use burn_flex::{Flex, FlexTensor};
use std::time::Instant;
use zofo_kernels::direction::{Direction, Isa, ParameterId};
use zofo_kernels::{Compute, DecoderOps, Noise, WeightView};

/// Rows, in, out: the projections of SmolLM2-135M for batches of different lengths, and one that fits no cache.
const SHAPES: [[usize; 3]; 8] = [
    [1, 576, 1536],
    [93, 576, 576],
    [93, 576, 192],
    [93, 576, 1536],
    [93, 1536, 576],
    [560, 576, 1536],
    [560, 1536, 576],
    [1024, 768, 3072],
];

fn matrix(rows: usize, columns: usize) -> FlexTensor {
    let mut values = vec![0.0; rows * columns];
    Direction::new(1, ParameterId::from_name("bench")).fill(0, &mut values);
    FlexTensor::from_data(TensorData::new(values, [rows, columns]))
}

/// GFLOP/s of the fastest of several runs; as many weights as a model has, so that they come from memory.
fn gflops(flops: f64, weights: &[FlexTensor], mut f: impl FnMut(&FlexTensor)) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        weights.iter().for_each(&mut f);
        best = best.min(start.elapsed().as_secs_f64() / weights.len() as f64);
    }
    flops / best / 1e9
}

fn main() {
    println!("{} threads, kernels for {}, GFLOP/s", rayon::current_num_threads(), Isa::best().name());
    let noise = Noise::Generated(Direction::new(2, ParameterId::from_name("w")));
    let formats = [(DType::F32, Compute::F32), (DType::BF16, Compute::F32), (DType::BF16, Compute::Bf16)];
    for (stored, compute) in formats {
        println!("\nstored {stored:?}, computed {compute:?}");
        println!("{:>20} {:>8} {:>8} {:>8} {:>8}", "rows×in×out", "w", "w + εz", "both", "x·W");
        for [rows, depth, width] in SHAPES {
            let bytes = stored.size() * depth * width;
            let copies = (200_000_000 / bytes).max(1);
            let weight = match stored {
                DType::F32 => matrix(width, depth),
                _ => Flex::float_cast(matrix(width, depth), FloatDType::BF16),
            };
            // Copies in memory of their own: a clone would share it.
            let copy = || FlexTensor::from_data(weight.clone().into_data());
            let weights: Vec<FlexTensor> = (0..copies).map(|_| copy()).collect();
            let (x, twice, grad) = (matrix(rows, depth), matrix(2 * rows, depth), matrix(rows, width));
            let flops = (2 * rows * depth * width) as f64;
            let run = |x: &FlexTensor, flops: f64, view: WeightView| {
                gflops(flops, &weights, |w| {
                    Flex::project(x.clone(), w.clone(), view.clone(), compute);
                })
            };
            let exact = run(&x, flops, WeightView::Exact);
            let one = run(&x, flops, WeightView::One { noise: noise.clone(), scale: 1e-3 });
            let pair = run(&twice, 2.0 * flops, WeightView::Pair { noise: noise.clone(), eps: 1e-3 });
            let transposed = gflops(flops, &weights, |w| {
                Flex::project_transposed(grad.clone(), w.clone(), WeightView::Exact, compute);
            });
            let shape = format!("{rows}×{depth}×{width}");
            println!("{shape:>20} {exact:8.0} {one:8.0} {pair:8.0} {transposed:8.0}");
        }
    }
}
