//! Updates in place, and directions that are stored.

use super::{bf16, floats, matrix, noise};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType};
use burn_flex::{Flex, FlexTensor};
use std::sync::Arc;
use zofo_kernels::direction::{Descent, Direction, LowRank, Mask, ParameterId};
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
        let fast = Flex::descend(weight, noise(), 0.5.into());
        assert_eq!(fast.bytes().as_ptr(), address, "the weight was copied");
        let exact = reference::descend::<Flex>(make(), &noise(), 0.5.into());
        assert_eq!(fast.bytes(), exact.bytes());
        assert_ne!(fast.bytes(), make().bytes());
    }
}

/// A mask leaves out what a stored direction has 0 for; weights that it leaves out do not decay either.
#[test]
fn a_mask_leaves_weights_as_they_are() {
    let (rows, columns) = (30, 231);
    let direction = Direction::new(7, ParameterId::from_name("weight"));
    for mask in [Mask::Smallest(0.3), Mask::Largest(0.3), Mask::random(5, 0.3)] {
        let masked = Noise::Masked(direction, mask);
        let before = floats(&matrix(2, rows, columns));
        let mut z = vec![f32::NAN; before.len()];
        masked.fill_for(0, &before, &mut z);
        let share = z.iter().filter(|&&z| z != 0.0).count() as f64 / z.len() as f64;
        assert!((0.1..0.9).contains(&share), "{mask:?} leaves {share}");
        // What it leaves out does not depend on where a piece begins.
        let mut piece = vec![f32::NAN; 100];
        masked.fill_for(500, &before[500..600], &mut piece);
        assert_eq!(piece, z[500..600]);

        let stored = Noise::Stored(z.clone().into());
        let x = matrix(1, 6, columns);
        for view in [|noise| WeightView::One { noise, scale: 0.1 }, |noise| WeightView::Pair { noise, eps: 0.1 }]
            as [fn(Noise) -> WeightView; 2]
        {
            let fast = Flex::project(x.clone(), matrix(2, rows, columns), view(masked.clone()), Compute::F32);
            let expected = Flex::project(x.clone(), matrix(2, rows, columns), view(stored.clone()), Compute::F32);
            assert_eq!(floats(&fast), floats(&expected), "{mask:?}");
            let exact =
                reference::project::<Flex>(x.clone(), matrix(2, rows, columns), &view(masked.clone()), Compute::F32);
            for (fast, exact) in floats(&fast).iter().zip(floats(&exact)) {
                assert!((fast - exact).abs() < 1e-4, "{mask:?}: {fast}, reference {exact}");
            }
        }
        let step = Descent { keep: 0.5, ..0.1.into() };
        let after = floats(&Flex::descend(matrix(2, rows, columns), masked.clone(), step));
        for ((before, after), z) in before.iter().zip(&after).zip(&z) {
            let expected = if *z == 0.0 { *before } else { 0.5 * before - 0.1 * z };
            assert_eq!(*after, expected, "{mask:?}");
        }
        let short = bf16(&matrix(2, rows, columns));
        let widened = floats(&Flex::float_cast(short.clone(), FloatDType::F32));
        let moved = Flex::descend(bf16(&matrix(2, rows, columns)), masked.clone(), step);
        let moved = floats(&Flex::float_cast(moved, FloatDType::F32));
        masked.fill_for(0, &widened, &mut z);
        let mut stayed = 0;
        for ((before, after), z) in widened.iter().zip(&moved).zip(&z) {
            assert!(*z != 0.0 || before == after, "{mask:?}: {before} became {after}");
            stayed += usize::from(*z != 0.0 && before == after);
        }
        // By chance, where 0.5·w is about −0.1·z.
        assert!(stayed * 50 < z.len(), "{mask:?}: {stayed} of {} did not move", z.len());
    }
}

/// A direction of low rank is its two factors' product, in every operation that reads or moves a weight.
#[test]
fn a_direction_of_low_rank_acts_like_its_product() {
    for (rank, rows, columns) in [(1, 30, 40), (2, 33, 231), (5, 7, 19)] {
        let low = Arc::new(LowRank::new(9, "weight", [rows, columns], rank));
        let normals = |name: &str, len: usize| {
            let mut values = vec![0.0; len];
            Direction::new(9, ParameterId::from_name(name)).fill(0, &mut values);
            values
        };
        let (u, v) = (normals("weight#u", rows * rank), normals("weight#v", columns * rank));
        let mut z = vec![f32::NAN; rows * columns];
        low.fill(0, &mut z);
        for (index, z) in z.iter().enumerate() {
            let (row, column) = (index / columns, index % columns);
            let expected: f64 = (0..rank).map(|k| f64::from(u[row * rank + k]) * f64::from(v[column * rank + k])).sum();
            assert!((f64::from(*z) - expected / (rank as f64).sqrt()).abs() < 1e-5, "{z} at {index}");
        }
        let mut piece = vec![f32::NAN; rows * columns / 2];
        low.fill(columns / 2, &mut piece);
        assert_eq!(piece, z[columns / 2..columns / 2 + piece.len()]);

        let (noise, stored) = (Noise::LowRank(low), Noise::Stored(z.into()));
        let close = |left: &FlexTensor, right: &FlexTensor| {
            for (left, right) in floats(left).iter().zip(floats(right)) {
                assert!((left - right).abs() < 1e-4, "{left}, by the whole direction {right}");
            }
        };
        for view in [|noise| WeightView::One { noise, scale: 0.1 }, |noise| WeightView::Pair { noise, eps: 0.1 }]
            as [fn(Noise) -> WeightView; 2]
        {
            let (x, by_row) = (matrix(1, 6, columns), matrix(1, 6, rows));
            let make = || matrix(2, rows, columns);
            close(
                &Flex::project(x.clone(), make(), view(noise.clone()), Compute::F32),
                &Flex::project(x.clone(), make(), view(stored.clone()), Compute::F32),
            );
            close(
                &Flex::project_transposed(by_row.clone(), make(), view(noise.clone()), Compute::F32),
                &Flex::project_transposed(by_row.clone(), make(), view(stored.clone()), Compute::F32),
            );
            close(
                &Flex::project(x.clone(), bf16(&make()), view(noise.clone()), Compute::F32),
                &Flex::project(x.clone(), bf16(&make()), view(stored.clone()), Compute::F32),
            );
            let signs = view(noise.clone()).signs();
            let targets: Arc<[u32]> = (0..6 / signs as u32).collect();
            close(
                &Flex::token_nll(x.clone(), make(), targets.clone(), None, view(noise.clone()), Compute::F32),
                &Flex::token_nll(x.clone(), make(), targets, None, view(stored.clone()), Compute::F32),
            );
        }
        let step = Descent { keep: 0.5, ..0.1.into() };
        let moved = |noise: &Noise| Flex::descend(matrix(2, rows, columns), noise.clone(), step);
        assert_eq!(floats(&moved(&noise)), floats(&moved(&stored)));
        let widened = |noise: &Noise| {
            let moved = Flex::descend(bf16(&matrix(2, rows, columns)), noise.clone(), step);
            floats(&Flex::float_cast(moved, FloatDType::F32))
        };
        // Rounded stochastically, and to nearest: no further apart than a unit in the last place.
        for (left, right) in widened(&noise).iter().zip(widened(&stored)) {
            assert!((left - right).abs() <= right.abs() / 128.0 + 1e-30, "{left} and {right}");
        }
    }
}

#[test]
#[should_panic(expected = "something else still holds it")]
fn descend_refuses_a_shared_weight() {
    let weight = matrix(1, 4, 4);
    let _holder = weight.clone();
    Flex::descend(weight, noise(), 0.5.into());
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
    let generated = Flex::descend(matrix(2, 30, 40), noise(), 0.5.into());
    assert_eq!(floats(&generated), floats(&Flex::descend(matrix(2, 30, 40), stored, 0.5.into())));
}
