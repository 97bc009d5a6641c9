//! Zeroth-order optimisation of something that is not a language model: four numbers that balance a pole on a cart, by
//! nothing but how many steps it stays up. The reward is a whole number; it has no gradient.
//!
//!     cargo run --release -p zofo --example black_box
//!
//! The equations of motion are those of Barto, Sutton and Anderson (1983), with a force between −10 and 10 newtons.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use zofo::task::SplitMix64;
use zofo::zo::BackboneDirection;
use zofo::zo::estimator::Spsa;
use zofo::zo::optimizer::{Diverged, ScalarOptimizer, ScalarRule};
use zofo_kernels::direction::ParameterId;

/// What directions know the policy by.
const NAME: &str = "policy";
/// Steps after which the pole counts as balanced.
const LONGEST: usize = 500;
/// Directions per step of the optimizer.
const DIRECTIONS: usize = 8;

fn main() -> Result<(), Diverged> {
    let mut random = SplitMix64::keyed(0, "example", 0);
    // Position, velocity, angle and angular velocity at the start of ten attempts.
    let starts: Vec<[f64; 4]> = (0..10).map(|_| [(); 4].map(|()| 0.1 * random.next_unit() - 0.05)).collect();
    let mean_steps = |policy: &[f32]| starts.iter().map(|start| balance(policy, *start)).sum::<f64>() / 10.0;

    let mut policy = vec![0.0f32; 4];
    let mut optimizer = ScalarOptimizer::new(ScalarRule::Rms);
    let spsa = Spsa::two_sided(0.1);
    for step in 0..=60 {
        if step % 10 == 0 {
            println!("after {step} steps: {:.1} of {LONGEST} steps upright", mean_steps(&policy));
        }
        // 1. Slopes of −reward, which is what descends, along random directions.
        let directions: Vec<_> = (0..DIRECTIONS).map(|_| BackboneDirection::Seeded(random.next_u64())).collect();
        let estimates = spsa.slopes(&directions, |view| {
            view.sides_of(NAME, &policy).iter().map(|policy| -mean_steps(policy)).collect::<Vec<f64>>()
        });

        // 2. policy ← policy − mean of coefficient·z.
        let slopes: Vec<f64> = estimates.iter().map(|estimate| estimate.slope).collect();
        for (direction, step) in directions.iter().zip(optimizer.step_mean(&slopes, 0.3)?) {
            if let Some(coefficient) = step.coefficient() {
                direction.of(NAME, ParameterId::from_name(NAME)).update_f32(0, &mut policy, coefficient);
            }
        }
    }
    println!("policy: {policy:?}");
    Ok(())
}

/// How many steps of 20 ms the pole stays up.
fn balance(policy: &[f32], start: [f64; 4]) -> f64 {
    const GRAVITY: f64 = 9.8;
    const MASS: f64 = 1.1;
    const POLE_MASS: f64 = 0.1;
    const HALF_LENGTH: f64 = 0.5;
    const SECONDS: f64 = 0.02;
    let [mut x, mut v, mut angle, mut spin] = start;
    for step in 0..LONGEST {
        let state = [x, v, angle, spin];
        let signal: f64 = policy.iter().zip(state).map(|(weight, value)| f64::from(*weight) * value).sum();
        let (sin, cos) = angle.sin_cos();
        let push = (10.0 * signal.tanh() + POLE_MASS * HALF_LENGTH * spin * spin * sin) / MASS;
        let turn = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos * cos / MASS));
        let pull = push - POLE_MASS * HALF_LENGTH * turn * cos / MASS;
        x += SECONDS * v;
        v += SECONDS * pull;
        angle += SECONDS * spin;
        spin += SECONDS * turn;
        if x.abs() > 2.4 || angle.abs() > 0.2095 {
            return step as f64;
        }
    }
    LONGEST as f64
}
