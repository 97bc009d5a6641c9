//! The machine: its processor, how fast it multiplies and generates, and what this process has used of it.

use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::Serialize;
use std::fmt;
use std::time::Instant;
use zofo_kernels::direction::{Direction, Isa, ParameterId};
use zofo_kernels::{Compute, WeightView, tensor as ops};

/// What the work runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The processor's name, where the system tells.
    pub cpu: Option<String>,
    /// The instruction set that the kernels chose.
    pub kernels: &'static str,
    /// Threads.
    pub threads: usize,
}

impl Machine {
    /// This one.
    pub fn current() -> Self {
        Self { cpu: cpu_name(), kernels: Isa::best().name(), threads: rayon::current_num_threads() }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.as_deref().unwrap_or("unknown processor");
        write!(formatter, "{cpu}, kernels for {}, {} threads", self.kernels, self.threads)
    }
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The most memory that this process has had resident, MiB. Nothing where the system does not tell (only Linux does).
pub fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

/// GFLOP/s of the fastest matrix product of 1024×768×3072 in a precision, best of many: Burn's own and that of the kernels in
/// f32; where products are to be those of bf16, the kernels' in that besides.
pub fn gemm_gflops(compute: Compute) -> f64 {
    const SHAPE: [usize; 3] = [1024, 768, 3072];
    const REPEATS: usize = 12;
    let [rows, depth, width] = SHAPE;
    let device = Device::flex();
    let fill = |rows: usize, columns: usize| Tensor::<2>::ones([rows, columns], &device) * 0.5;
    let (x, weight) = (fill(rows, depth), fill(width, depth));
    let transposed = fill(depth, width);
    let fastest = |f: &dyn Fn() -> Tensor<2>| {
        let seconds = (0..REPEATS).map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        });
        seconds.fold(f64::INFINITY, f64::min)
    };
    let burn = fastest(&|| x.clone().matmul(transposed.clone()));
    let f32 = fastest(&|| ops::project(x.clone(), weight.clone(), &[WeightView::Exact], Compute::F32));
    let mut seconds = burn.min(f32);
    if compute == Compute::Bf16 {
        let narrow = weight.clone().cast(DType::BF16);
        seconds = seconds.min(fastest(&|| ops::project(x.clone(), narrow.clone(), &[WeightView::Exact], compute)));
    }
    2.0 * (rows * depth * width) as f64 / seconds / 1e9
}

/// Nanoseconds per weight to generate a direction with all threads, best of several.
pub fn direction_ns_per_weight() -> f64 {
    /// Weights of one piece: it stays in a cache, as the tiles of products do.
    const PIECE: usize = 1 << 14;
    const PIECES: u64 = 1 << 10;
    const REPEATS: u64 = 3;
    let run = |seed| {
        let direction = Direction::new(seed, ParameterId::from_name("bench"));
        let start = Instant::now();
        (0..PIECES).into_par_iter().for_each_init(
            || vec![0.0f32; PIECE],
            |z, piece| {
                direction.fill(piece * PIECE as u64, z);
                // Without it the compiler may see that nobody reads z.
                std::hint::black_box(z);
            },
        );
        start.elapsed().as_secs_f64()
    };
    let best = (0..REPEATS).map(run).fold(f64::INFINITY, f64::min);
    best * 1e9 / (PIECES as f64 * PIECE as f64)
}
