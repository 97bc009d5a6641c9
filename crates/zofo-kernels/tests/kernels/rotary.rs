//! Rotary position embedding.

use super::{Ad, assert_close, floats, gradients, matrix, values};
use burn::backend::ops::FloatTensorOps;
use burn_flex::Flex;
use zofo_kernels::{DecoderOps, RotaryAngles, reference};

const TOKENS: usize = 9;
const HEADS: usize = 3;

/// Angles of all of a head of 8, or of its first 6 elements, with a factor other than 1.
fn angles(half: usize) -> RotaryAngles {
    let phases = values(3, TOKENS * half);
    RotaryAngles {
        cos: phases.iter().map(|a| 1.25 * a.cos()).collect(),
        sin: phases.iter().map(|a| 1.25 * a.sin()).collect(),
        half,
        head_dim: 8,
    }
}

#[test]
fn rotary_equals_the_reference_and_its_inverse_is_the_gradient() {
    let (x, grad) = (matrix(1, TOKENS, HEADS * 8), matrix(2, TOKENS, HEADS * 8));
    for angles in [angles(4), angles(3)] {
        let fast = Flex::rotary(x.clone(), angles.clone());
        assert_close(&fast, &reference::rotary::<Flex>(x.clone(), &angles), 1e-6);
        let exact = gradients(&[&x], &grad, |x| reference::rotary::<Ad>(x[0].clone(), &angles));
        let fast = gradients(&[&x], &grad, |x| Ad::rotary(x[0].clone(), angles.clone()));
        assert_close(&fast[0], &exact[0], 1e-6);
        assert_close(&reference::rotary::<Flex>(grad.clone(), &angles.inverse()), &exact[0], 1e-6);
    }
}

#[test]
fn what_is_not_rotary_passes_unchanged() {
    let x = matrix(1, TOKENS, HEADS * 8);
    let (before, after) = (floats(&x), floats(&Flex::rotary(x, angles(3))));
    for (before, after) in before.chunks_exact(8).zip(after.chunks_exact(8)) {
        assert_eq!(before[6..], after[6..]);
        assert!(before[..6].iter().zip(after).all(|(before, after)| before != after));
    }
}

#[test]
fn doubled_angles_serve_the_same_tokens_twice() {
    let x = matrix(1, TOKENS, HEADS * 8);
    let once = floats(&Flex::rotary(x.clone(), angles(3)));
    let twice = floats(&Flex::rotary(Flex::float_cat(vec![x.clone(), x], 0), angles(3).repeated(2)));
    assert_eq!(twice, [once.clone(), once].concat());
}
