//! Every kernel at the sizes that it has in SmolLM2-135M, with the batches of 93 tokens that 8 sentences of SST-2 make:
//! `cargo bench --workspace --bench kernels [-- PART OF A NAME]`.
//!
//! "Elements" are floating point operations of products and attention, and values of everything else. Weights are more than
//! caches hold, so that they come from memory as those of a model do. `benches/kernels_table.py` keeps what was measured.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{FloatDType, TensorData};
use burn_flex::{Flex, FlexTensor};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use half::bf16;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use zofo_kernels::direction::{Direction, ParameterId};
use zofo_kernels::{Activation, AttentionLayout, Compute, DecoderOps, Noise, RotaryAngles, Segment, WeightView};

const TOKENS: usize = 93;
const HIDDEN: usize = 576;
const KEYS: usize = 192;
const MLP: usize = 1536;
const VOCABULARY: usize = 49152;
const HEADS: usize = 9;
const KEY_HEADS: usize = 3;
const HEAD: usize = 64;

/// Rows, in, out.
const PRODUCTS: [[usize; 3]; 6] = [
    [1, HIDDEN, MLP],
    [TOKENS, HIDDEN, KEYS],
    [TOKENS, HIDDEN, HIDDEN],
    [TOKENS, HIDDEN, MLP],
    [TOKENS, MLP, HIDDEN],
    [1024, 768, 3072],
];

/// Values of all weights of a product together.
const WEIGHTS: usize = 16 << 20;

/// Values of a direction.
const DIRECTION: usize = 1 << 22;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    products(&mut criterion);
    heads(&mut criterion);
    attention(&mut criterion);
    rows(&mut criterion);
    directions(&mut criterion);
    criterion.final_summary();
}

fn noise() -> Noise {
    Noise::Generated(Direction::new(2, ParameterId::from_name("w")))
}

fn pair() -> WeightView {
    WeightView::Pair { noise: noise(), eps: 1e-3 }
}

fn values(len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Direction::new(1, ParameterId::from_name("bench")).fill(0, &mut values);
    values
}

fn matrix(rows: usize, columns: usize) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values(rows * columns), [rows, columns]))
}

/// How weights are stored, and what products compute in.
const PRECISIONS: [(&str, bool, Compute); 3] =
    [("f32", false, Compute::F32), ("bf16 as f32", true, Compute::F32), ("bf16", true, Compute::Bf16)];

/// Weights that take turns.
struct Weights {
    copies: Vec<FlexTensor>,
    turn: usize,
}

impl Weights {
    fn new(rows: usize, columns: usize, narrow: bool) -> Self {
        let copy = || match matrix(rows, columns) {
            weight if narrow => Flex::float_cast(weight, FloatDType::BF16),
            weight => weight,
        };
        Self { copies: (0..(WEIGHTS / (rows * columns)).max(1)).map(|_| copy()).collect(), turn: 0 }
    }

    fn next(&mut self) -> FlexTensor {
        self.turn = (self.turn + 1) % self.copies.len();
        self.copies[self.turn].clone()
    }
}

/// Measures `f`, which handles so many elements.
fn measure<T>(group: &mut BenchmarkGroup<'_, WallTime>, id: BenchmarkId, elements: usize, mut f: impl FnMut() -> T) {
    group.throughput(Throughput::Elements(elements as u64));
    group.bench_function(id, |bencher| bencher.iter(|| black_box(f())));
}

fn products(criterion: &mut Criterion) {
    for (precision, narrow, compute) in PRECISIONS {
        let mut group = criterion.benchmark_group(format!("products, {precision}"));
        for [rows, depth, width] in PRODUCTS {
            let shape = format!("{rows}x{depth}x{width}");
            let (x, twice, grad) = (matrix(rows, depth), matrix(2 * rows, depth), matrix(rows, width));
            let mut weights = Weights::new(width, depth, narrow);
            let operations = 2 * rows * depth * width;
            measure(&mut group, BenchmarkId::new("project", &shape), operations, || {
                Flex::project(x.clone(), weights.next(), WeightView::Exact, compute)
            });
            measure(&mut group, BenchmarkId::new("project, both signs", &shape), 2 * operations, || {
                Flex::project(twice.clone(), weights.next(), pair(), compute)
            });
            measure(&mut group, BenchmarkId::new("project_transposed", &shape), operations, || {
                Flex::project_transposed(grad.clone(), weights.next(), WeightView::Exact, compute)
            });
        }
    }
}

/// Embeddings, and the head with its loss at eight labels.
fn heads(criterion: &mut Criterion) {
    const LABELS: usize = 8;
    let targets: Arc<[u32]> = (0..LABELS as u32).map(|label| label * 1000).collect();
    let ids: Arc<[u32]> = (0..TOKENS as u32).map(|id| id * 500).collect();
    let (hidden, twice, grad) = (matrix(LABELS, HIDDEN), matrix(2 * LABELS, HIDDEN), matrix(LABELS, 1));
    let mut group = criterion.benchmark_group("head");
    for (precision, narrow, compute) in PRECISIONS {
        let mut weights = Weights::new(VOCABULARY, HIDDEN, narrow);
        let operations = 2 * LABELS * VOCABULARY * HIDDEN;
        measure(&mut group, BenchmarkId::new("token_nll", precision), operations, || {
            Flex::token_nll(hidden.clone(), weights.next(), targets.clone(), None, WeightView::Exact, compute)
        });
        measure(&mut group, BenchmarkId::new("token_nll, both signs", precision), 2 * operations, || {
            Flex::token_nll(twice.clone(), weights.next(), targets.clone(), None, pair(), compute)
        });
        measure(&mut group, BenchmarkId::new("token_nll_backward", precision), 2 * operations, || {
            let (grad, hidden, targets) = (grad.clone(), hidden.clone(), targets.clone());
            Flex::token_nll_backward(grad, hidden, weights.next(), targets, None, WeightView::Exact, compute)
        });
        if compute == Compute::F32 {
            measure(&mut group, BenchmarkId::new("embed, both signs", precision), 2 * TOKENS * HIDDEN, || {
                Flex::embed(weights.next(), ids.clone(), pair())
            });
        }
    }
}

/// Rows of so many tokens behind each other.
fn layout(rows: usize, length: usize) -> AttentionLayout {
    let positions: Vec<u32> = (0..rows).flat_map(|_| 0..length as u32).collect();
    let row = |row: usize| row * length..(row + 1) * length;
    AttentionLayout {
        segments: (0..rows).map(|i| Segment { queries: row(i), keys: vec![row(i)] }).collect(),
        query_positions: positions.clone(),
        key_positions: positions,
        heads: HEADS,
        kv_heads: KEY_HEADS,
        head_dim: HEAD,
        scale: 0.125,
        softcap: None,
        sliding_window: None,
    }
}

fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention");
    for (rows, length) in [(8, 12), (8, 128), (1, 1024)] {
        let shape = format!("{rows}x{length}");
        let tokens = rows * length;
        let (q, k, v, grad) =
            (matrix(tokens, HIDDEN), matrix(tokens, KEYS), matrix(tokens, KEYS), matrix(tokens, HIDDEN));
        let layout = Arc::new(layout(rows, length));
        // q·k and weights·v, at and below the diagonal.
        let operations = 2 * 2 * rows * (length * (length + 1) / 2) * HEADS * HEAD;
        measure(&mut group, BenchmarkId::new("attend", &shape), operations, || {
            Flex::attend(q.clone(), k.clone(), v.clone(), layout.clone())
        });
        // Both again, and the gradients of each with respect to both of its factors.
        measure(&mut group, BenchmarkId::new("attend_backward", &shape), 5 * operations / 2, || {
            Flex::attend_backward(grad.clone(), q.clone(), k.clone(), v.clone(), layout.clone())
        });
    }
}

/// What works on rows by themselves.
fn rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rows");
    let id = |name: &str| BenchmarkId::from_parameter(name);
    let (x, grad, weight, bias) =
        (matrix(TOKENS, HIDDEN), matrix(TOKENS, HIDDEN), matrix(1, HIDDEN), matrix(1, HIDDEN));
    let exact = || WeightView::Exact;
    let wide = TOKENS * HIDDEN;
    measure(&mut group, id("rms_norm"), wide, || Flex::rms_norm(x.clone(), weight.clone(), 1e-5, false, exact()));
    measure(&mut group, id("rms_norm_backward"), wide, || {
        Flex::rms_norm_backward(grad.clone(), x.clone(), weight.clone(), 1e-5, false, exact())
    });
    measure(&mut group, id("layer_norm"), wide, || {
        <Flex as DecoderOps>::layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-5, exact(), exact())
    });
    measure(&mut group, id("layer_norm_backward"), wide, || {
        Flex::layer_norm_backward(grad.clone(), x.clone(), weight.clone(), 1e-5, exact())
    });
    measure(&mut group, id("add_bias"), wide, || Flex::add_bias(x.clone(), bias.clone(), exact()));

    let table: Arc<[f32]> = values(TOKENS * HEAD / 2).into();
    let angles = RotaryAngles { cos: table.clone(), sin: table, half: HEAD / 2, head_dim: HEAD };
    measure(&mut group, id("rotary"), wide, || Flex::rotary(x.clone(), angles.clone()));

    let [gate, up, grad] = [(); 3].map(|()| matrix(TOKENS, MLP));
    let wide = TOKENS * MLP;
    let silu = Activation::Silu;
    measure(&mut group, id("activate"), wide, || Flex::activate(gate.clone(), silu));
    measure(&mut group, id("activate_backward"), wide, || Flex::activate_backward(grad.clone(), gate.clone(), silu));
    measure(&mut group, id("gated"), wide, || Flex::gated(gate.clone(), up.clone(), silu));
    measure(&mut group, id("gated_backward"), wide, || {
        Flex::gated_backward(grad.clone(), gate.clone(), up.clone(), silu)
    });
}

/// Directions on one thread, and updates on all.
fn directions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("directions");
    let id = |name: &str| BenchmarkId::from_parameter(name);
    let direction = Direction::new(2, ParameterId::from_name("w"));
    let weights = values(DIRECTION);
    let narrow: Vec<bf16> = weights.iter().map(|&w| bf16::from_f32(w)).collect();
    let (mut plus, mut minus) = (vec![0.0; DIRECTION], vec![0.0; DIRECTION]);
    measure(&mut group, id("fill"), DIRECTION, || direction.fill(0, &mut plus));
    measure(&mut group, id("perturb_pair, f32"), DIRECTION, || {
        direction.perturb_pair(0, &weights, 1e-3, &mut plus, &mut minus);
    });
    measure(&mut group, id("perturb_pair, bf16"), DIRECTION, || {
        direction.perturb_pair(0, &narrow, 1e-3, &mut plus, &mut minus);
    });
    for (name, stored) in [("descend, f32", None), ("descend, bf16", Some(FloatDType::BF16))] {
        let weight = matrix(DIRECTION / HIDDEN, HIDDEN);
        let mut weight = Some(stored.map_or(weight.clone(), |dtype| Flex::float_cast(weight, dtype)));
        measure(&mut group, id(name), DIRECTION / HIDDEN * HIDDEN, || {
            weight = weight.take().map(|weight| Flex::descend(weight, noise(), 1e-9.into()));
        });
    }
}
