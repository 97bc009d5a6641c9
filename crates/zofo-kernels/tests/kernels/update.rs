//! Updates in place, and directions that are stored.

use super::{bf16, floats, matrix, noise};
use burn::tensor::DType;
use burn_flex::Flex;
use zofo_kernels::{Compute, DecoderOps, Noise, WeightView, reference};

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
        let generated = Flex::project(x.clone(), w.clone(), one, Compute::F32);
        assert_eq!(floats(&generated), floats(&Flex::project(x.clone(), w.clone(), other, Compute::F32)));
    }
    let generated = Flex::descend(matrix(2, 30, 40), noise(), 0.5);
    assert_eq!(floats(&generated), floats(&Flex::descend(matrix(2, 30, 40), stored, 0.5)));
}
