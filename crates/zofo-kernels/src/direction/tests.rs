//! The direction's contract: known answers, the same bits on every path and in every chunking,
//! exact arithmetic.

use half::bf16;
use proptest::prelude::*;

use super::{Descent, Direction, Distribution, Isa, ParameterId};

fn direction(seed: u64) -> Direction {
    Direction::new(seed, ParameterId::from_name("model.layers.0.self_attn.q_proj.weight"))
}

fn normals(direction: Direction, start: u64, len: usize) -> Vec<f32> {
    let mut z = vec![f32::NAN; len];
    direction.fill(start, &mut z);
    z
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn bf16_bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_parameter_is_the_start_of_the_hash_of_its_name() {
    // SHA-256("abc") = ba7816bf 8f01cfea …, the example of FIPS 180-4.
    assert_eq!(ParameterId::from_name("abc"), ParameterId(0xEACF_018F_BF16_78BA));
}

/// Bits that journals rely on: a change here is a new scheme. An implementation of the module's
/// description in another language, with a mathematical library's functions, gave the same numbers
/// to 1e-6.
#[test]
fn pinned_normals() {
    let pinned: [(u64, u32); 11] = [
        (0, 0xBE92_BADF),
        (1, 0x3F4C_1AB4),
        (15, 0x3FD2_FD59),
        (16, 0xBFBE_AD5D),
        (17, 0xBF9D_5FD7),
        (32, 0xBF14_618A),
        (48, 0x3CE7_8518),
        (63, 0x3F69_02B3),
        (64, 0xBEB1_8BE0),
        (1_000_003, 0x3F68_2A30),
        ((1 << 36) + 21, 0x3EDD_8E85),
    ];
    for (index, expected) in pinned {
        let z = normals(direction(0x0123_4567_89AB_CDEF), index, 1)[0];
        assert_eq!(z.to_bits(), expected, "element {index}: {z}");
    }
}

#[test]
fn every_path_of_this_cpu_is_tested() {
    let names: Vec<&str> = Isa::available().map(Isa::name).collect();
    assert_eq!(names.first(), Some(&"portable"));
    assert_eq!(names.last(), Some(&Isa::best().name()));
    #[cfg(target_arch = "x86_64")]
    assert_eq!(names.contains(&"avx2"), is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));
}

#[test]
#[should_panic(expected = "exceed the 2^58")]
fn an_index_without_a_counter_is_refused() {
    direction(0).fill((1 << 58) - 1, &mut [0.0; 2]);
}

#[test]
fn the_last_index_has_a_normal() {
    assert!(normals(direction(0), (1 << 58) - 1, 1)[0].is_finite());
}

/// Weights of all signs and sizes that models have.
fn weights(len: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-4.0f32..4.0, len)
}

proptest! {
    #[test]
    fn chunks_are_parts_of_the_whole(
        seed: u64,
        start in 0u64..1 << 57,
        len in 1usize..600,
        cut in 0usize..600,
    ) {
        let cut = cut % len;
        let whole = normals(direction(seed), start, len);
        let mut parts = normals(direction(seed), start, cut);
        parts.extend(normals(direction(seed), start + cut as u64, len - cut));
        prop_assert_eq!(bits(&whole), bits(&parts));
    }

    #[test]
    fn all_paths_give_the_same_bits(
        seed: u64,
        start in 0u64..1 << 57,
        scale in -1.0f32..1.0,
        w in (0usize..400).prop_flat_map(weights),
    ) {
        let short: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
        let run = |isa: Isa| {
            let direction = direction(seed).with_isa(isa);
            let mut out = [(); 8].map(|()| vec![f32::NAN; w.len()]);
            let [fill, signs, perturbed, plus, minus, short_perturbed, short_plus, short_minus] = &mut out;
            direction.fill(start, fill);
            direction.with_distribution(Distribution::Rademacher).fill(start, signs);
            direction.perturb(start, &w, scale, perturbed);
            direction.perturb_pair(start, &w, scale, plus, minus);
            direction.perturb(start, &short, scale, short_perturbed);
            direction.perturb_pair(start, &short, scale, short_plus, short_minus);
            let (mut updated, mut short_updated) = (w.clone(), short.clone());
            let step = Descent { keep: 0.75, ..scale.into() };
            direction.update_f32(start, &mut updated, step);
            direction.update_bf16(start, &mut short_updated, step);
            (out.map(|values| bits(&values)), bits(&updated), bf16_bits(&short_updated))
        };
        let portable = Isa::available().next().map(run);
        for isa in Isa::available() {
            prop_assert!(Some(run(isa)) == portable, "{} differs from portable", isa.name());
        }
    }

    #[test]
    fn weights_move_along_the_direction(
        seed: u64,
        start in 0u64..1000,
        eps in -1.0f32..1.0,
        w in (1usize..200).prop_flat_map(weights),
    ) {
        let direction = direction(seed);
        let z = normals(direction, start, w.len());
        let moved = |sign: f32| -> Vec<u32> {
            w.iter().zip(&z).map(|(w, z)| (w + sign * eps * z).to_bits()).collect()
        };
        let [mut plus, mut minus, mut one] = [(); 3].map(|()| vec![f32::NAN; w.len()]);
        direction.perturb_pair(start, &w, eps, &mut plus, &mut minus);
        prop_assert_eq!(bits(&plus), moved(1.0));
        prop_assert_eq!(bits(&minus), moved(-1.0));
        direction.perturb(start, &w, -eps, &mut one);
        prop_assert_eq!(bits(&one), moved(-1.0));
        let mut updated = w.clone();
        direction.update_f32(start, &mut updated, eps);
        prop_assert_eq!(bits(&updated), moved(-1.0));
        let mut decayed = w.clone();
        direction.update_f32(start, &mut decayed, Descent { keep: 0.9, ..eps.into() });
        let expected: Vec<f32> = w.iter().zip(&z).map(|(w, z)| 0.9 * w - eps * z).collect();
        prop_assert_eq!(bits(&decayed), bits(&expected));
    }

    #[test]
    fn signs_are_fair_and_do_not_depend_on_chunks(seed: u64, start in 0u64..1 << 57, cut in 0usize..4000) {
        let direction = direction(seed).with_distribution(Distribution::Rademacher);
        let whole = normals(direction, start, 4000);
        prop_assert!(whole.iter().all(|z| z.abs() == 1.0));
        // Six standard deviations.
        prop_assert!(whole.iter().sum::<f32>().abs() < 6.0 * 4000f32.sqrt());
        let mut parts = normals(direction, start, cut);
        parts.extend(normals(direction, start + cut as u64, 4000 - cut));
        prop_assert_eq!(whole, parts);
    }

    #[test]
    fn an_update_of_bf16_does_not_depend_on_chunks(
        seed: u64,
        len in 1usize..400,
        cut in 0usize..400,
    ) {
        let cut = cut % len;
        let start: Vec<bf16> = (0..len).map(|i| bf16::from_f32(i as f32 / 100.0)).collect();
        let (mut whole, mut parts) = (start.clone(), start);
        direction(seed).update_bf16(77, &mut whole, 1e-3);
        let (head, tail) = parts.split_at_mut(cut);
        direction(seed).update_bf16(77 + cut as u64, tail, 1e-3);
        direction(seed).update_bf16(77, head, 1e-3);
        prop_assert_eq!(bf16_bits(&whole), bf16_bits(&parts));
    }
}

/// A step of 1/200 of a unit in the last place, which rounding to nearest would always lose, moves
/// the mean of many weights by just that step: within 5 standard deviations.
#[test]
fn small_updates_of_bf16_are_kept_on_average() {
    const COUNT: usize = 1 << 20;
    let (ulp, coefficient) = (2f64.powi(-7), 2f32.powi(-7) / 200.0);
    let z = normals(direction(5), 0, COUNT);
    let mut weights = vec![bf16::from_f32(1.5); COUNT];
    direction(5).update_bf16(0, &mut weights, coefficient);
    let (mut along, mut variance, mut moved) = (0.0, 0.0, 0);
    for (w, &z) in weights.iter().zip(&z) {
        let (step, wanted) = (w.to_f64() - 1.5, f64::from(-coefficient * z));
        assert!(step == 0.0 || (step.abs() == ulp && step * wanted > 0.0), "{step} for {wanted}");
        moved += usize::from(step != 0.0);
        along += (step - wanted) * f64::from(z);
        variance += wanted.abs() * (ulp - wanted.abs()) * f64::from(z * z);
    }
    assert!(along.abs() < 5.0 * variance.sqrt(), "{along} off, standard deviation {}", variance.sqrt());
    let expected = COUNT as f64 * (2.0 / std::f64::consts::PI).sqrt() / 200.0;
    assert!((moved as f64 - expected).abs() < 5.0 * expected.sqrt(), "{moved} moved, {expected} expected");
}

/// Ten steps along one direction, each of 1/200 of a unit in the last place: every turn moves other weights. With the bits of
/// the first turn again and again, the same ones would move ten times, and a tenth as many.
#[test]
fn a_direction_that_is_used_again_rounds_by_other_bits() {
    const COUNT: usize = 1 << 18;
    const TURNS: u32 = 10;
    let (ulp, coefficient) = (2f64.powi(-7), 2f32.powi(-7) / 200.0);
    let z = normals(direction(5), 0, COUNT);
    let whole: Vec<f32> = z.iter().map(|z| 1.5 - coefficient * z).collect();
    let (mut weights, mut rounded) = (vec![bf16::from_f32(1.5); COUNT], vec![bf16::ZERO; COUNT]);
    for turn in 0..TURNS {
        let mut once = vec![bf16::from_f32(1.5); COUNT];
        direction(5).update_bf16(0, &mut once, Descent { turn, ..coefficient.into() });
        direction(5).round_bf16(0, &whole, &mut rounded, turn);
        assert_eq!(bf16_bits(&once), bf16_bits(&rounded), "turn {turn}");
        direction(5).update_bf16(0, &mut weights, Descent { turn, ..coefficient.into() });
    }
    let moves = z.iter().map(|z| 1.0 - (1.0 - f64::from((coefficient * z).abs()) / ulp).powi(TURNS as i32));
    let (expected, variance) = moves.fold((0.0, 0.0), |(sum, variance), p| (sum + p, variance + p * (1.0 - p)));
    let moved = weights.iter().filter(|w| w.to_f64() != 1.5).count() as f64;
    assert!((moved - expected).abs() < 5.0 * variance.sqrt(), "{moved} moved, {expected} expected");
}
