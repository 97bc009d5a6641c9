//! 10⁸ draws against the moments of independent standard normals. Every bound is 5 standard
//! deviations of the estimator; the seeds are fixed, so the tests always see the same draws.

use std::thread;

use super::{Direction, ParameterId};

const DRAWS: usize = 100_000_000;
const CHUNK: usize = 1 << 14;

/// Sums over all draws of each statistic, with its expectation and variance under N(0, I).
struct Statistic {
    name: &'static str,
    expectation: f64,
    variance: f64,
}

const fn statistic(name: &'static str, expectation: f64, variance: f64) -> Statistic {
    Statistic { name, expectation, variance }
}

/// P(|z| > 4), and the same beyond 5.
const BEYOND_4: f64 = 6.334_248_4e-5;
const BEYOND_5: f64 = 5.733_031_4e-7;

const STATISTICS: [Statistic; 14] = [
    statistic("mean", 0.0, 1.0),
    statistic("variance", 1.0, 2.0),
    statistic("skewness", 0.0, 15.0),
    statistic("kurtosis", 3.0, 96.0),
    statistic("tail beyond 4", BEYOND_4, BEYOND_4),
    statistic("tail beyond 5", BEYOND_5, BEYOND_5),
    statistic("correlation of neighbours", 0.0, 1.0),
    statistic("correlation of neighbours' squares", 0.0, 4.0),
    statistic("correlation of Box–Muller partners", 0.0, 1.0),
    statistic("correlation of partners' squares", 0.0, 4.0),
    statistic("correlation of words 1 and 2", 0.0, 1.0),
    statistic("correlation of consecutive seeds", 0.0, 1.0),
    statistic("correlation of seeds that differ in the high half", 0.0, 1.0),
    statistic("correlation of tensors", 0.0, 1.0),
];

/// The sums of [`STATISTICS`] over elements `start` to `start + CHUNK`.
fn sums(start: u64) -> [f64; 14] {
    let (one, other) =
        (ParameterId::from_name("model.embed_tokens.weight"), ParameterId::from_name("model.norm.weight"));
    let draw = |seed, parameter| {
        let mut z = vec![0.0f32; CHUNK];
        Direction::new(seed, parameter).fill(start, &mut z);
        z
    };
    let z = draw(1, one);
    let (next_seed, far_seed, tensor) = (draw(2, one), draw(1 + (1 << 32), one), draw(1, other));
    let mut sums = [0.0; 14];
    for i in 0..CHUNK {
        let at = |values: &[f32], i: usize| f64::from(values[i % CHUNK]);
        let (x, neighbour) = (at(&z, i), at(&z, i + 1));
        // Within a group of 64 the partner of elements 0..16 is 16 further on, and so for 32..48.
        let (partner, word_2) = (at(&z, i ^ 16), at(&z, i ^ 48));
        let square = x * x;
        let terms = [
            x,
            square,
            square * x,
            square * square,
            f64::from(u8::from(x.abs() > 4.0)),
            f64::from(u8::from(x.abs() > 5.0)),
            x * neighbour,
            (square - 1.0) * (neighbour * neighbour - 1.0),
            x * partner,
            (square - 1.0) * (partner * partner - 1.0),
            x * word_2,
            x * at(&next_seed, i),
            x * at(&far_seed, i),
            x * at(&tensor, i),
        ];
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum += term;
        }
    }
    sums
}

#[test]
fn a_hundred_million_draws_look_like_independent_normals() {
    let chunks = DRAWS.div_ceil(CHUNK);
    let threads = thread::available_parallelism().map_or(1, |count| count.get());
    let totals = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn(move || {
                    let mut total = [0.0; 14];
                    for chunk in (worker..chunks).step_by(threads) {
                        for (total, sum) in total.iter_mut().zip(sums((chunk * CHUNK) as u64)) {
                            *total += sum;
                        }
                    }
                    total
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker failed")).fold([0.0; 14], |mut all, part| {
            all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
            all
        })
    });
    let draws = (chunks * CHUNK) as f64;
    for (statistic, total) in STATISTICS.iter().zip(totals) {
        let Statistic { name, expectation, variance } = statistic;
        let (estimate, deviation) = (total / draws, (variance / draws).sqrt());
        let sigmas = (estimate - expectation) / deviation;
        assert!(sigmas.abs() < 5.0, "{name}: {estimate} for {expectation}, {sigmas:.1} standard deviations off");
    }
}
