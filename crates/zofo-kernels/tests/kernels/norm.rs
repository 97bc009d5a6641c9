//! Norms.

use super::{Ad, assert_close, bf16, constant, floats, gradients, matrix, noise, views};
use burn::tensor::TensorData;
use burn_flex::{Flex, FlexTensor};
use zofo_kernels::{DecoderOps, WeightView, reference};

const EPS: f32 = 1e-5;

#[test]
fn rms_norm_equals_the_reference_and_so_does_its_gradient() {
    let (x, w, grad) = (matrix(2, 10, 75), matrix(3, 1, 75), matrix(4, 10, 75));
    for view in views() {
        for w in [w.clone(), bf16(&w)] {
            for unit_offset in [false, true] {
                let fast = Flex::rms_norm(x.clone(), w.clone(), EPS, unit_offset, view.clone());
                let exact = reference::rms_norm::<Flex>(x.clone(), w.clone(), EPS, unit_offset, &view);
                assert_close(&fast, &exact, 1e-6);

                let exact = gradients(&[&x], &grad, |x| {
                    reference::rms_norm::<Ad>(x[0].clone(), constant(&w), EPS, unit_offset, &view)
                });
                let fast = gradients(&[&x], &grad, |x| {
                    Ad::rms_norm(x[0].clone(), constant(&w), EPS, unit_offset, view.clone())
                });
                let inputs = (grad.clone(), x.clone(), w.clone());
                let plain = reference::rms_norm_backward::<Flex>(inputs.0, inputs.1, inputs.2, EPS, unit_offset, &view);
                assert_close(&plain, &exact[0], 1e-6);
                assert_close(&fast[0], &exact[0], 1e-6);
            }
        }
    }
}

#[test]
fn the_unit_offset_is_an_offset_of_the_stored_weight() {
    let (x, w) = (matrix(1, 4, 20), matrix(2, 1, 20));
    let plus_one = floats(&w).iter().map(|w| w + 1.0).collect();
    let plus_one = FlexTensor::from_data(TensorData::new::<f32, _>(plus_one, [1, 20]));
    let offset = Flex::rms_norm(x.clone(), w, EPS, true, WeightView::Exact);
    let plain = Flex::rms_norm(x, plus_one, EPS, false, WeightView::Exact);
    assert_eq!(floats(&offset), floats(&plain));
}

#[test]
fn layer_norm_equals_the_reference_and_so_does_its_gradient() {
    let (x, w, b, grad) = (matrix(2, 10, 75), matrix(3, 1, 75), matrix(4, 1, 75), matrix(5, 10, 75));
    let bias_views = [WeightView::Exact, WeightView::One { noise: noise(), scale: -0.3 }, views()[2].clone()];
    for (view, bias_view) in views().into_iter().zip(bias_views) {
        for (w, b) in [(w.clone(), b.clone()), (bf16(&w), bf16(&b))] {
            let layer_norm = <Flex as DecoderOps>::layer_norm;
            let fast = layer_norm(x.clone(), w.clone(), b.clone(), EPS, view.clone(), bias_view.clone());
            let exact = reference::layer_norm::<Flex>(x.clone(), w.clone(), b.clone(), EPS, &view, &bias_view);
            assert_close(&fast, &exact, 1e-6);

            let exact = gradients(&[&x], &grad, |x| {
                reference::layer_norm::<Ad>(x[0].clone(), constant(&w), constant(&b), EPS, &view, &bias_view)
            });
            let layer_norm = <Ad as DecoderOps>::layer_norm;
            let fast = gradients(&[&x], &grad, |x| {
                layer_norm(x[0].clone(), constant(&w), constant(&b), EPS, view.clone(), bias_view.clone())
            });
            let plain = reference::layer_norm_backward::<Flex>(grad.clone(), x.clone(), w.clone(), EPS, &view);
            assert_close(&plain, &exact[0], 1e-6);
            assert_close(&fast[0], &exact[0], 1e-6);
        }
    }
}

/// E(x²) − E(x)² would lose three digits here: E(x²) is 10⁴, where f32 resolves 1e-3.
#[test]
fn layer_norm_of_values_with_a_large_mean_is_accurate() {
    let width = 768;
    let x: Vec<f32> = floats(&matrix(1, 1, width)).iter().map(|x| x + 100.0).collect();
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width as f64;
    let exact = x.iter().map(|&x| ((f64::from(x) - mean) / (variance + f64::from(EPS)).sqrt()) as f32).collect();
    let [x, exact] = [x, exact].map(|values| FlexTensor::from_data(TensorData::new(values, [1, width])));
    let row = |value: f32| FlexTensor::from_data(TensorData::new(vec![value; width], [1, width]));
    let fast = <Flex as DecoderOps>::layer_norm(x, row(1.0), row(0.0), EPS, WeightView::Exact, WeightView::Exact);
    assert_close(&fast, &exact, 5e-6);
}
