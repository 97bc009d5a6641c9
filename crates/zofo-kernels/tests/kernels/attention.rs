//! Attention over contexts.

use super::{Ad, assert_close, floats, gradients, matrix};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::TensorData;
use burn_flex::{Flex, FlexTensor};
use std::ops::Range;
use std::sync::Arc;
use zofo_kernels::{AttentionLayout, DecoderOps, Segment, reference};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 6;

/// Rows of keys and values without queries of their own: a learned prefix that everyone sees, and a cache.
const PREFIX: Range<usize> = 0..2;
const CACHE: Range<usize> = 2..5;
/// Rows with queries: a prompt, two candidates behind it, and a row behind the cache.
const PROMPT: Range<usize> = 5..10;
const CANDIDATES: [Range<usize>; 2] = [10..12, 12..15];
const OTHER: Range<usize> = 15..19;

/// Everything at once: a prefix shared by all, several contexts per segment, a prompt shared by two candidates.
pub(crate) fn layout() -> AttentionLayout {
    let segment = |contexts: &[Range<usize>], own: Range<usize>| Segment {
        queries: own.start - CACHE.end..own.end - CACHE.end,
        keys: contexts.iter().cloned().chain([own]).collect(),
    };
    let [first, second] = CANDIDATES;
    let positions: Vec<u32> = [0..2, 2..5, 2..7, 7..9, 7..10, 5..9].into_iter().flatten().collect();
    AttentionLayout {
        segments: vec![
            // Not in the order of their queries.
            segment(&[PREFIX, CACHE], OTHER),
            segment(&[PREFIX], PROMPT),
            segment(&[PREFIX, PROMPT], first),
            segment(&[PREFIX, PROMPT], second),
        ],
        query_positions: positions[CACHE.end..].to_vec(),
        key_positions: positions,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        scale: 0.35,
        softcap: None,
        sliding_window: None,
    }
}

/// Queries, keys and values.
fn inputs(layout: &AttentionLayout) -> [FlexTensor; 3] {
    let (queries, keys) = (layout.query_positions.len(), layout.key_positions.len());
    let width = KV_HEADS * HEAD_DIM;
    [matrix(1, queries, HEADS * HEAD_DIM), matrix(2, keys, width), matrix(3, keys, width)]
}

fn gradient_weights(layout: &AttentionLayout) -> FlexTensor {
    matrix(4, layout.query_positions.len(), HEADS * HEAD_DIM)
}

#[test]
fn attention_over_contexts_equals_the_reference_and_so_do_its_gradients() {
    // Scores are about ±2: a cap of 1.5 bends them much.
    for softcap in [None, Some(1.5), Some(50.0)] {
        for sliding_window in [None, Some(3), Some(1)] {
            let plain = AttentionLayout { softcap, sliding_window, ..layout() };
            for layout in [plain.repeated(2), plain] {
                let [q, k, v] = &inputs(&layout);
                let grad = gradient_weights(&layout);
                let shared = Arc::new(layout.clone());
                let fast = Flex::attend(q.clone(), k.clone(), v.clone(), shared.clone());
                let exact = reference::attend::<Flex>(q.clone(), k.clone(), v.clone(), &layout);
                assert_close(&fast, &exact, 1e-6);

                let exact = gradients(&[q, k, v], &grad, |x| {
                    reference::attend::<Ad>(x[0].clone(), x[1].clone(), x[2].clone(), &layout)
                });
                let fast = gradients(&[q, k, v], &grad, |x| {
                    Ad::attend(x[0].clone(), x[1].clone(), x[2].clone(), shared.clone())
                });
                let plain = reference::attend_backward::<Flex>(grad, q.clone(), k.clone(), v.clone(), &layout);
                for (fast, (plain, exact)) in fast.iter().zip([plain.0, plain.1, plain.2].iter().zip(&exact)) {
                    assert_close(plain, exact, 2e-6);
                    assert_close(fast, exact, 2e-6);
                }
            }
        }
    }
}

/// A shared prefix is the same as a copy of it for every segment, and its gradient the sum of theirs.
#[test]
fn the_gradient_of_a_shared_prefix_sums_over_all_segments() {
    let shared = AttentionLayout { softcap: Some(1.5), ..layout() };
    let [q, k, v] = inputs(&shared);
    let keys = shared.key_positions.len();
    let mut copied = shared.clone();
    for (index, segment) in copied.segments.iter_mut().enumerate() {
        segment.keys[0] = keys + index * PREFIX.len()..keys + (index + 1) * PREFIX.len();
        copied.key_positions.extend(PREFIX.map(|position| position as u32));
    }
    let with_copies = |x: &FlexTensor| {
        let copies = shared.segments.iter().map(|_| x.narrow(0, PREFIX.start, PREFIX.len()));
        Flex::float_cat([x.clone()].into_iter().chain(copies).collect(), 0)
    };
    let (many_k, many_v) = (with_copies(&k), with_copies(&v));
    let grad = gradient_weights(&shared);
    let run = |k: &FlexTensor, v: &FlexTensor, layout: &AttentionLayout| {
        let layout = Arc::new(layout.clone());
        let out = Flex::attend(q.clone(), k.clone(), v.clone(), layout.clone());
        let (dq, dk, dv) = Flex::attend_backward(grad.clone(), q.clone(), k.clone(), v.clone(), layout);
        (floats(&out), floats(&dq), [dk, dv])
    };
    let (out, dq, one) = run(&k, &v, &shared);
    let (many_out, many_dq, many) = run(&many_k, &many_v, &copied);
    assert_eq!(out, many_out);
    assert_eq!(dq, many_dq);
    for (one, many) in one.iter().zip(&many) {
        let copies =
            shared.segments.iter().enumerate().map(|(i, _)| many.narrow(0, keys + i * PREFIX.len(), PREFIX.len()));
        let sum = copies.reduce(Flex::float_add).expect("there are segments");
        let prefix = one.narrow(0, PREFIX.start, PREFIX.len());
        assert_close(&prefix, &sum, 1e-6);
        assert!(floats(&prefix).iter().all(|&gradient| gradient != 0.0));
        // Whatever else is shared or not has its gradient as before.
        let rest = |x: &FlexTensor| floats(&x.narrow(0, PREFIX.end, keys - PREFIX.end));
        assert_eq!(rest(one), rest(many));
    }
}

#[test]
fn scores_are_scaled_then_capped_then_masked() {
    let layout = AttentionLayout {
        segments: vec![Segment { queries: 0..1, keys: vec![0..1, 1..3] }],
        query_positions: vec![1],
        key_positions: vec![0, 1, 2],
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
        scale: 0.5,
        softcap: Some(2.0),
        sliding_window: None,
    };
    let column = |values: Vec<f32>| {
        let rows = values.len();
        FlexTensor::from_data(TensorData::new(values, [rows, 1]))
    };
    let (q, k, v) = (column(vec![2.0]), column(vec![1.0, 3.0, 9.0]), column(vec![0.0, 1.0, 7.0]));
    // Scores 1 and 3, capped; the third key comes after the query.
    let difference = 2.0 * 1.5f64.tanh() - 2.0 * 0.5f64.tanh();
    let expected = column(vec![(1.0 / (1.0 + (-difference).exp())) as f32]);
    assert_close(&reference::attend::<Flex>(q.clone(), k.clone(), v.clone(), &layout), &expected, 1e-6);
    assert_close(&Flex::attend(q, k, v, Arc::new(layout)), &expected, 1e-6);
}
