//! The CPU kernels against their specification, and the hand-written gradients against Burn's autodiff of it.

use burn::backend::Autodiff;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, TensorData};
use burn_flex::{Flex, FlexTensor};
use std::sync::Arc;
use zofo_kernels::direction::{Direction, ParameterId};
use zofo_kernels::{AttentionLayout, DecoderOps, Noise, RotaryAngles, Segment, WeightView, reference};

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

/// Gradient of Σ weights ∘ f(x), from Burn's autodiff of the reference.
fn oracle(
    inputs: &[FlexTensor],
    weights: &FlexTensor,
    f: impl Fn(&[FloatTensor<Ad>]) -> FloatTensor<Ad>,
) -> Vec<FlexTensor> {
    let inputs: Vec<FloatTensor<Ad>> =
        inputs.iter().map(|x| FloatTensor::<Ad>::new(x.clone()).require_grad()).collect();
    let weights = FloatTensor::<Ad>::new(weights.clone());
    let loss = Ad::float_sum(Ad::float_mul(f(&inputs), weights));
    let gradients = loss.backward();
    inputs.iter().map(|x| x.grad(&gradients).expect("input is tracked")).collect()
}

/// Shapes that are no multiple of any block, and one that spans several.
const SHAPES: [[usize; 3]; 5] = [[2, 5, 3], [2, 64, 97], [10, 70, 33], [38, 600, 200], [74, 1100, 100]];

#[test]
fn project_equals_the_reference() {
    for [rows, depth, width] in SHAPES {
        let (x, w) = (matrix(1, rows, depth), matrix(2, width, depth));
        for view in views() {
            for w in [w.clone(), bf16(&w)] {
                let fast = Flex::project(x.clone(), w.clone(), view.clone());
                let exact = reference::project::<Flex>(x.clone(), w, &view);
                assert_close(&fast, &exact, 2e-6);
            }
        }
    }
}

/// Every remainder of a register block's rows, columns and lanes.
#[test]
fn edges_of_blocks_equal_the_reference() {
    for share in 1..=7 {
        for depth in [1, 3, 7, 9, 15, 17, 31, 33, 67] {
            for width in [1, 2, 3, 5, 97] {
                for view in views() {
                    let rows = share * view.signs();
                    let (x, grad) = (matrix(1, rows, depth), matrix(3, rows, width));
                    let w = matrix(2, width, depth);
                    for w in [w.clone(), bf16(&w)] {
                        let fast = Flex::project(x.clone(), w.clone(), view.clone());
                        assert_close(&fast, &reference::project::<Flex>(x.clone(), w.clone(), &view), 2e-6);
                        let fast = Flex::project_backward(grad.clone(), w.clone(), view.clone());
                        assert_close(&fast, &reference::project_backward::<Flex>(grad.clone(), w, &view), 2e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn project_backward_equals_the_reference() {
    for [rows, depth, width] in SHAPES {
        let (grad, w) = (matrix(1, rows, width), matrix(2, width, depth));
        for view in views() {
            for w in [w.clone(), bf16(&w)] {
                let fast = Flex::project_backward(grad.clone(), w.clone(), view.clone());
                let exact = reference::project_backward::<Flex>(grad.clone(), w, &view);
                assert_close(&fast, &exact, 2e-6);
            }
        }
    }
}

#[test]
fn the_two_signs_of_a_pair_are_the_two_single_perturbations() {
    let [rows, depth, width] = [14, 130, 75];
    let (x, w) = (matrix(1, rows, depth), matrix(2, width, depth));
    let twice = Flex::float_cat(vec![x.clone(), x.clone()], 0);
    let pair = Flex::project(twice, w.clone(), WeightView::Pair { noise: noise(), eps: 0.25 });
    let single = |scale| floats(&Flex::project(x.clone(), w.clone(), WeightView::One { noise: noise(), scale }));
    let pair = floats(&pair);
    assert_eq!(pair[..rows * width], single(0.25)[..]);
    assert_eq!(pair[rows * width..], single(-0.25)[..]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (x, w) = (matrix(1, 54, 700), matrix(2, 300, 700));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let view = WeightView::Pair { noise: noise(), eps: 1e-3 };
        pool.install(|| {
            let y = Flex::project(x.clone(), w.clone(), view.clone());
            let dx = Flex::project_backward(y.clone(), w.clone(), view.clone());
            let moved = Flex::descend(matrix(3, 300, 700), noise(), 0.5);
            [floats(&y), floats(&dx), floats(&moved)].concat()
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn embed_and_norm_equal_the_reference() {
    let table = matrix(1, 50, 72);
    let ids: Arc<[u32]> = [3u32, 0, 49, 3].into();
    let (x, w, grad) = (matrix(2, 10, 72), matrix(3, 1, 72), matrix(4, 10, 72));
    for view in views() {
        let fast = Flex::embed(table.clone(), ids.clone(), view.clone());
        let exact = reference::embed::<Flex>(table.clone(), &ids, &view);
        assert_close(&fast, &exact, 1e-7);

        let fast = Flex::rms_norm(x.clone(), w.clone(), 1e-5, view.clone());
        let exact = reference::rms_norm::<Flex>(x.clone(), w.clone(), 1e-5, &view);
        assert_close(&fast, &exact, 1e-6);

        let fast = Flex::rms_norm_backward(grad.clone(), x.clone(), w.clone(), 1e-5, view.clone());
        let exact = reference::rms_norm_backward::<Flex>(grad.clone(), x.clone(), w.clone(), 1e-5, &view);
        assert_close(&fast, &exact, 1e-6);
        let exact = oracle(std::slice::from_ref(&x), &grad, |x| {
            reference::rms_norm::<Ad>(x[0].clone(), FloatTensor::<Ad>::new(w.clone()), 1e-5, &view)
        });
        assert_close(&fast, &exact[0], 1e-5);
    }
}

#[test]
fn rotary_equals_the_reference_and_its_inverse_is_the_gradient() {
    let (tokens, heads, half) = (9, 3, 4);
    let x = matrix(1, tokens, heads * half * 2);
    let grad = matrix(2, tokens, heads * half * 2);
    let phases = values(3, tokens * half);
    let angles = RotaryAngles {
        cos: phases.iter().map(|a| a.cos()).collect(),
        sin: phases.iter().map(|a| a.sin()).collect(),
        half,
    };
    let fast = Flex::rotary(x.clone(), angles.clone());
    assert_close(&fast, &reference::rotary::<Flex>(x.clone(), &angles), 1e-6);
    let exact = oracle(&[x], &grad, |x| reference::rotary::<Ad>(x[0].clone(), &angles));
    assert_close(&Flex::rotary(grad, angles.inverse()), &exact[0], 1e-6);
}

/// Two candidates that share a prompt, a row of its own, and a cached context that only one row sees.
fn layout(sliding_window: Option<usize>) -> AttentionLayout {
    // Key/value rows: 0..3 cache; 3..8 prompt; 8..10 and 10..13 candidates; 13..17 a row behind the cache.
    let query = |range: std::ops::Range<usize>| range.start - 3..range.end - 3;
    let segment = |own: std::ops::Range<usize>, context: Option<std::ops::Range<usize>>| Segment {
        queries: query(own.clone()),
        keys: context.into_iter().chain([own]).collect(),
    };
    let positions: Vec<u32> = [0..3, 0..5, 5..7, 5..8, 3..7].into_iter().flatten().collect();
    AttentionLayout {
        segments: vec![
            segment(13..17, Some(0..3)),
            segment(3..8, None),
            segment(8..10, Some(3..8)),
            segment(10..13, Some(3..8)),
        ],
        query_positions: positions[3..].to_vec(),
        key_positions: positions,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        sliding_window,
    }
}

#[test]
fn attention_over_contexts_equals_the_reference_and_so_do_its_gradients() {
    for layout in [layout(None), layout(Some(3)), layout(None).doubled()] {
        let (queries, keys) = (layout.query_positions.len(), layout.key_positions.len());
        let (q, k, v) = (matrix(1, queries, 24), matrix(2, keys, 12), matrix(3, keys, 12));
        let grad = matrix(4, queries, 24);
        let shared = Arc::new(layout.clone());
        let fast = Flex::attend(q.clone(), k.clone(), v.clone(), shared.clone());
        let exact = reference::attend::<Flex>(q.clone(), k.clone(), v.clone(), &layout);
        assert_close(&fast, &exact, 1e-6);

        let exact = oracle(&[q.clone(), k.clone(), v.clone()], &grad, |x| {
            reference::attend::<Ad>(x[0].clone(), x[1].clone(), x[2].clone(), &layout)
        });
        let plain = reference::attend_backward::<Flex>(grad.clone(), q.clone(), k.clone(), v.clone(), &layout);
        let fast = Flex::attend_backward(grad, q, k, v, shared);
        for (fast, (plain, exact)) in
            [fast.0, fast.1, fast.2].iter().zip([plain.0, plain.1, plain.2].iter().zip(&exact))
        {
            assert_close(plain, exact, 2e-6);
            assert_close(fast, exact, 2e-6);
        }
    }
}

#[test]
fn silu_mul_equals_the_reference_and_so_do_its_gradients() {
    let (gate, up, grad) = (matrix(1, 5, 37), matrix(2, 5, 37), matrix(3, 5, 37));
    let fast = Flex::silu_mul(gate.clone(), up.clone());
    assert_close(&fast, &reference::silu_mul::<Flex>(gate.clone(), up.clone()), 1e-6);
    let exact = oracle(&[gate.clone(), up.clone()], &grad, |x| reference::silu_mul::<Ad>(x[0].clone(), x[1].clone()));
    let plain = reference::silu_mul_backward::<Flex>(grad.clone(), gate.clone(), up.clone());
    let fast = Flex::silu_mul_backward(grad, gate, up);
    for (fast, (plain, exact)) in [fast.0, fast.1].iter().zip([plain.0, plain.1].iter().zip(&exact)) {
        assert_close(plain, exact, 1e-6);
        assert_close(fast, exact, 1e-6);
    }
}

#[test]
fn token_nll_equals_the_reference_and_so_do_its_gradients() {
    // More labels than are held at once.
    let (labels, width, vocabulary) = (70, 20, 130);
    let targets: Arc<[u32]> = (0..labels as u32).map(|i| i * 31 % 130).collect();
    let w = matrix(2, vocabulary, width);
    for view in views() {
        let rows = labels * view.signs();
        let (hidden, grad) = (matrix(1, rows, width), matrix(3, rows, 1));
        let fast = Flex::token_nll(hidden.clone(), w.clone(), targets.clone(), view.clone());
        let exact = reference::token_nll::<Flex>(hidden.clone(), w.clone(), &targets, &view);
        assert_close(&fast, &exact, 1e-6);
        let exact = oracle(std::slice::from_ref(&hidden), &grad, |x| {
            let w = FloatTensor::<Ad>::new(w.clone());
            reference::token_nll::<Ad>(x[0].clone(), w, &targets, &view)
        });
        let inputs = (grad.clone(), hidden.clone(), w.clone());
        let plain = reference::token_nll_backward::<Flex>(inputs.0, inputs.1, inputs.2, &targets, &view);
        let fast = Flex::token_nll_backward(grad, hidden, w.clone(), targets.clone(), view);
        assert_close(&plain, &exact[0], 2e-6);
        assert_close(&fast, &exact[0], 2e-6);
    }
}

#[test]
fn descend_updates_in_place_with_the_bits_of_the_reference() {
    let (rows, columns) = (300, 231);
    for dtype in [DType::F32, DType::BF16] {
        let make = || match dtype {
            DType::F32 => matrix(1, rows, columns),
            _ => bf16(&matrix(1, rows, columns)),
        };
        let weight = make();
        let address = weight.bytes().as_ptr();
        let fast = Flex::descend(weight, noise(), 0.5);
        assert_eq!(fast.bytes().as_ptr(), address, "the weight was copied");
        let exact = reference::descend::<Flex>(make(), &noise(), 0.5);
        assert_eq!(fast.bytes(), exact.bytes());
        assert_ne!(fast.bytes(), make().bytes());
    }
}

#[test]
#[should_panic(expected = "something else still holds it")]
fn descend_refuses_a_shared_weight() {
    let weight = matrix(1, 4, 4);
    let _holder = weight.clone();
    Flex::descend(weight, noise(), 0.5);
}

#[test]
fn a_stored_direction_acts_like_the_generated_one() {
    let (x, w) = (matrix(1, 6, 40), matrix(2, 30, 40));
    let mut z = vec![0.0; 30 * 40];
    noise().fill(0, &mut z);
    let stored = Noise::Stored(z.into());
    for (one, other) in [
        (WeightView::One { noise: noise(), scale: 0.1 }, WeightView::One { noise: stored.clone(), scale: 0.1 }),
        (WeightView::Pair { noise: noise(), eps: 0.1 }, WeightView::Pair { noise: stored.clone(), eps: 0.1 }),
    ] {
        let generated = Flex::project(x.clone(), w.clone(), one);
        assert_eq!(floats(&generated), floats(&Flex::project(x.clone(), w.clone(), other)));
    }
    let generated = Flex::descend(matrix(2, 30, 40), noise(), 0.5);
    assert_eq!(floats(&generated), floats(&Flex::descend(matrix(2, 30, 40), stored, 0.5)));
}
