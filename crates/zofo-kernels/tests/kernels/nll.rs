//! The output matrix and cross-entropy.

use super::{Ad, assert_close, bf16, constant, gradients, matrix, views};
use burn_flex::Flex;
use std::sync::Arc;
use zofo_kernels::{Compute, DecoderOps, reference};

#[test]
fn token_nll_equals_the_reference_and_so_do_its_gradients() {
    // More labels than are held at once.
    let (labels, width, vocabulary) = (70, 20, 130);
    let targets: Arc<[u32]> = (0..labels as u32).map(|i| i * 31 % 130).collect();
    let w = matrix(2, vocabulary, width);
    for view in views() {
        // Logits are about ±10: a cap of 5 bends them much.
        let cases = [
            (None, w.clone(), Compute::F32),
            (Some(5.0), w.clone(), Compute::F32),
            (Some(30.0), bf16(&w), Compute::F32),
        ];
        for (softcap, w, compute) in cases {
            let rows = labels * view.signs();
            let (hidden, grad) = (matrix(1, rows, width), matrix(3, rows, 1));
            let fast = Flex::token_nll(hidden.clone(), w.clone(), targets.clone(), softcap, view.clone(), compute);
            let exact = reference::token_nll::<Flex>(hidden.clone(), w.clone(), &targets, softcap, &view, compute);
            assert_close(&fast, &exact, 1e-6);
            let exact = gradients(&[&hidden], &grad, |x| {
                reference::token_nll::<Ad>(x[0].clone(), constant(&w), &targets, softcap, &view, compute)
            });
            let fast = gradients(&[&hidden], &grad, |x| {
                Ad::token_nll(x[0].clone(), constant(&w), targets.clone(), softcap, view.clone(), compute)
            });
            let plain = reference::token_nll_backward::<Flex>(grad, hidden, w, &targets, softcap, &view, compute);
            assert_close(&plain, &exact[0], 2e-6);
            assert_close(&fast[0], &exact[0], 2e-6);
        }
    }
}

/// The gradient of the logits is rounded too: to eight bits, where the two may round to either side.
#[test]
fn token_nll_in_bf16_equals_the_reference_in_bf16() {
    let (labels, width, vocabulary) = (70, 20, 130);
    let targets: Arc<[u32]> = (0..labels as u32).map(|i| i * 31 % 130).collect();
    let w = matrix(2, vocabulary, width);
    for view in views() {
        for w in [w.clone(), bf16(&w)] {
            let rows = labels * view.signs();
            let (hidden, grad) = (matrix(1, rows, width), matrix(3, rows, 1));
            let compute = Compute::Bf16;
            let fast = Flex::token_nll(hidden.clone(), w.clone(), targets.clone(), None, view.clone(), compute);
            let exact = reference::token_nll::<Flex>(hidden.clone(), w.clone(), &targets, None, &view, compute);
            assert_close(&fast, &exact, 1e-6);
            let fast = gradients(&[&hidden], &grad, |x| {
                Ad::token_nll(x[0].clone(), constant(&w), targets.clone(), None, view.clone(), compute)
            });
            let exact = reference::token_nll_backward::<Flex>(grad, hidden, w, &targets, None, &view, compute);
            assert_close(&fast[0], &exact, 2e-3);
        }
    }
}
