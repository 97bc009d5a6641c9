//! Elementwise functions of feed-forward layers.

use super::{Ad, assert_close, floats, gradients, matrix};
use burn::tensor::TensorData;
use burn_flex::{Flex, FlexTensor};
use zofo_kernels::{Activation, DecoderOps, reference};

#[test]
fn activations_equal_the_reference_and_so_do_their_gradients() {
    let (x, grad) = (matrix(1, 5, 37), matrix(3, 5, 37));
    for activation in Activation::ALL {
        let fast = Flex::activate(x.clone(), activation);
        assert_close(&fast, &reference::activate::<Flex>(x.clone(), activation), 1e-6);
        let exact = gradients(&[&x], &grad, |x| reference::activate::<Ad>(x[0].clone(), activation));
        let fast = gradients(&[&x], &grad, |x| Ad::activate(x[0].clone(), activation));
        assert_close(&reference::activate_backward::<Flex>(grad.clone(), x.clone(), activation), &exact[0], 1e-6);
        assert_close(&fast[0], &exact[0], 1e-6);
    }
}

#[test]
fn gated_units_equal_the_reference_and_so_do_their_gradients() {
    let (gate, up, grad) = (matrix(1, 5, 37), matrix(2, 5, 37), matrix(3, 5, 37));
    for activation in Activation::ALL {
        let fast = Flex::gated(gate.clone(), up.clone(), activation);
        assert_close(&fast, &reference::gated::<Flex>(gate.clone(), up.clone(), activation), 1e-6);
        let exact = gradients(&[&gate, &up], &grad, |x| reference::gated::<Ad>(x[0].clone(), x[1].clone(), activation));
        let fast = gradients(&[&gate, &up], &grad, |x| Ad::gated(x[0].clone(), x[1].clone(), activation));
        let plain = reference::gated_backward::<Flex>(grad.clone(), gate.clone(), up.clone(), activation);
        for (fast, (plain, exact)) in fast.iter().zip([plain.0, plain.1].iter().zip(&exact)) {
            assert_close(plain, exact, 1e-6);
            assert_close(fast, exact, 1e-6);
        }
    }
}

/// Values and slopes at −1, 0 and 1.5, from 40 digits of precision.
#[test]
fn activations_have_their_known_values() {
    let at = FlexTensor::from_data(TensorData::new(vec![-1.0f32, 0.0, 1.5], [1, 3]));
    let ones = FlexTensor::from_data(TensorData::new(vec![1.0f32; 3], [1, 3]));
    let known: [(Activation, [f64; 3], [f64; 3]); 4] = [
        (Activation::Silu, [-0.2689414214, 0.0, 1.226361714], [0.07232948813, 0.5, 1.041294154]),
        (Activation::GeluTanh, [-0.1588080094, 0.0, 1.399571577], [-0.08296408385, 0.5, 1.127710793]),
        (Activation::Gelu, [-0.1586552539, 0.0, 1.399789198], [-0.08331547059, 0.5, 1.127469192]),
        (Activation::Relu, [0.0, 0.0, 1.5], [0.0, 0.0, 1.0]),
    ];
    for (activation, values, slopes) in known {
        let fast = floats(&Flex::activate(at.clone(), activation));
        let plain = floats(&reference::activate::<Flex>(at.clone(), activation));
        let fast_slopes = floats(&Flex::activate_backward(ones.clone(), at.clone(), activation));
        let plain_slopes = floats(&reference::activate_backward::<Flex>(ones.clone(), at.clone(), activation));
        for (found, known) in [(fast, values), (plain, values), (fast_slopes, slopes), (plain_slopes, slopes)] {
            for (found, known) in found.iter().zip(known) {
                assert!((f64::from(*found) - known).abs() < 3e-7, "{activation:?}: {found} for {known}");
            }
        }
    }
}
