//! Products with a weight, biases and lookups.

use super::{Ad, assert_close, bf16, constant, floats, gradients, matrix, noise, views};
use burn::backend::ops::FloatTensorOps;
use burn_flex::{Flex, FlexTensor};
use std::sync::Arc;
use zofo_kernels::{Compute, DecoderOps, WeightView, reference};

/// Shapes that are no multiple of any block, and one that spans several.
const SHAPES: [[usize; 3]; 5] = [[2, 5, 3], [2, 64, 97], [10, 70, 33], [38, 600, 200], [74, 1100, 100]];

/// A weight in both storages, each with both precisions of products.
fn stored_and_computed(w: &FlexTensor) -> [(FlexTensor, Compute); 4] {
    [(w.clone(), Compute::F32), (bf16(w), Compute::F32), (w.clone(), Compute::Bf16), (bf16(w), Compute::Bf16)]
}

#[test]
fn project_equals_the_reference() {
    for [rows, depth, width] in SHAPES {
        let (x, w) = (matrix(1, rows, depth), matrix(2, width, depth));
        for view in views() {
            for (w, compute) in stored_and_computed(&w) {
                let fast = Flex::project(x.clone(), w.clone(), view.clone(), compute);
                let exact = reference::project::<Flex>(x.clone(), w, &view, compute);
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
                    for (w, compute) in stored_and_computed(&w) {
                        let fast = Flex::project(x.clone(), w.clone(), view.clone(), compute);
                        assert_close(&fast, &reference::project::<Flex>(x.clone(), w.clone(), &view, compute), 2e-6);
                        let fast = Flex::project_transposed(grad.clone(), w.clone(), view.clone(), compute);
                        let exact = reference::project_transposed::<Flex>(grad.clone(), w, &view, compute);
                        assert_close(&fast, &exact, 2e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn project_transposed_equals_the_reference() {
    for [rows, depth, width] in SHAPES {
        let (grad, w) = (matrix(1, rows, width), matrix(2, width, depth));
        for view in views() {
            for (w, compute) in stored_and_computed(&w) {
                let fast = Flex::project_transposed(grad.clone(), w.clone(), view.clone(), compute);
                let exact = reference::project_transposed::<Flex>(grad.clone(), w, &view, compute);
                assert_close(&fast, &exact, 2e-6);
            }
        }
    }
}

#[test]
fn each_product_is_the_gradient_of_the_other() {
    let (rows, columns) = (21, 34);
    let w = matrix(2, rows, columns);
    for view in views() {
        let (narrow, wide) = (matrix(1, 10, rows), matrix(3, 10, columns));
        let fast =
            gradients(&[&wide], &narrow, |x| Ad::project(x[0].clone(), constant(&w), view.clone(), Compute::F32));
        let exact =
            gradients(&[&wide], &narrow, |x| reference::project::<Ad>(x[0].clone(), constant(&w), &view, Compute::F32));
        assert_close(&fast[0], &exact[0], 2e-6);
        let fast = gradients(&[&narrow], &wide, |x| {
            Ad::project_transposed(x[0].clone(), constant(&w), view.clone(), Compute::F32)
        });
        let exact = gradients(&[&narrow], &wide, |x| {
            reference::project_transposed::<Ad>(x[0].clone(), constant(&w), &view, Compute::F32)
        });
        assert_close(&fast[0], &exact[0], 2e-6);
    }
}

/// Rounding has no slope of its own: a gradient in bf16 is the other product in bf16.
#[test]
fn gradients_are_computed_in_the_precision_of_the_product() {
    let w = matrix(2, 21, 34);
    let (narrow, wide) = (matrix(1, 10, 21), matrix(3, 10, 34));
    let view = WeightView::Exact;
    let fast = gradients(&[&wide], &narrow, |x| Ad::project(x[0].clone(), constant(&w), view.clone(), Compute::Bf16));
    let other = |compute| reference::project_transposed::<Flex>(narrow.clone(), w.clone(), &view, compute);
    assert_close(&fast[0], &other(Compute::Bf16), 2e-6);
    let coarse = floats(&fast[0]).iter().zip(floats(&other(Compute::F32))).any(|(a, b)| (a - b).abs() > 1e-3);
    assert!(coarse, "bf16 makes a difference");
    let fast = gradients(&[&narrow], &wide, |x| {
        Ad::project_transposed(x[0].clone(), constant(&w), view.clone(), Compute::Bf16)
    });
    assert_close(&fast[0], &reference::project::<Flex>(wide, w, &view, Compute::Bf16), 2e-6);
}

#[test]
fn the_two_signs_of_a_pair_are_the_two_single_perturbations() {
    let [rows, depth, width] = [14, 130, 75];
    let (x, w) = (matrix(1, rows, depth), matrix(2, width, depth));
    let twice = Flex::float_cat(vec![x.clone(), x.clone()], 0);
    for compute in [Compute::F32, Compute::Bf16] {
        let pair = Flex::project(twice.clone(), w.clone(), WeightView::Pair { noise: noise(), eps: 0.25 }, compute);
        let single =
            |scale| floats(&Flex::project(x.clone(), w.clone(), WeightView::One { noise: noise(), scale }, compute));
        let pair = floats(&pair);
        assert_eq!(pair[..rows * width], single(0.25)[..]);
        assert_eq!(pair[rows * width..], single(-0.25)[..]);
    }
}

#[test]
fn add_bias_equals_the_reference_and_leaves_its_input_alone() {
    let (x, bias, grad) = (matrix(1, 10, 37), matrix(2, 1, 37), matrix(3, 10, 37));
    let before = floats(&x);
    for view in views() {
        for bias in [bias.clone(), bf16(&bias)] {
            let exact = reference::add_bias::<Flex>(x.clone(), bias.clone(), &view);
            let fast = Flex::add_bias(x.clone(), bias.clone(), view.clone());
            assert_eq!(floats(&fast), floats(&exact));
            let gradient = gradients(&[&x], &grad, |x| Ad::add_bias(x[0].clone(), constant(&bias), view.clone()));
            assert_eq!(floats(&gradient[0]), floats(&grad));
        }
    }
    assert_eq!(floats(&x), before);
    // Part of a larger tensor.
    let part = x.narrow(0, 3, 4);
    let fast = Flex::add_bias(part.clone(), bias.clone(), WeightView::Exact);
    assert_eq!(floats(&fast), floats(&reference::add_bias::<Flex>(part, bias, &WeightView::Exact)));
}

#[test]
fn embed_equals_the_reference() {
    let table = matrix(1, 50, 72);
    let ids: Arc<[u32]> = [3u32, 0, 49, 3].into();
    for view in views() {
        for table in [table.clone(), bf16(&table)] {
            let fast = Flex::embed(table.clone(), ids.clone(), view.clone());
            assert_close(&fast, &reference::embed::<Flex>(table, &ids, &view), 1e-7);
        }
    }
}
