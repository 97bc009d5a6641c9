//! Properties that hold for any weights and tokens: evaluation writes nothing, rows do not see each other, both signs at
//! once are the two alone, gradients are slopes, replay and threads change no bit.

mod random_model;

use burn::tensor::Tensor;
use proptest::prelude::*;
use random_model::RandomModel;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use zofo::eval::{Generation, Sampling, evaluate, generate};
use zofo::hf::WeightDtype;
use zofo::model::{Backbone, Batch, KeyValueCache, Part};
use zofo::peft::{Adapter, AdapterConfig, PrefixConfig, PrefixInit, PromptConfig, PromptInit};
use zofo::run::config::Optimizer;
use zofo::task::{EncodedCandidate, EncodedExample, SplitMix64};
use zofo::train::bilevel::Bilevel;
use zofo::train::loss::{loss, loss_gradients, losses};
use zofo::train::objective::Objective;
use zofo::train::{Batches, Block, LearningRates, StepInput};
use zofo::zo::estimator::Spsa;
use zofo::zo::journal::Record;
use zofo::zo::momentum::Momentum;
use zofo::zo::optimizer::BackboneOptimizer;
use zofo::zo::space::{DirectionKind, DirectionSpace, ElementChoice, ElementDistribution, ElementMask};
use zofo::zo::update::{BackboneUpdater, StepEstimate};
use zofo::zo::{BackboneDirection, Perturbation};
use zofo_kernels::direction::Descent;

const DTYPES: [WeightDtype; 2] = [WeightDtype::F32, WeightDtype::Bf16];

/// What rounding does to a negative log-likelihood or a logit when sums are taken in another order.
const ROUNDING: f32 = 1e-5;

#[test]
fn evaluation_never_writes_the_backbone() {
    let model = RandomModel::new();
    for dtype in DTYPES {
        let backbone = model.load(dtype);
        let adapter = model.adapter(1);
        let before = backbone.hashes();
        let batch = rows_of(&[vec![5, 6, 7, 8], vec![9, 10]]);
        let part = [Part { batch: &batch, adapter: Some(&adapter) }, Part { batch: &batch, adapter: None }];
        let direction = BackboneDirection::Seeded(3);
        for _ in 0..3 {
            losses(&backbone, &part, &Perturbation::None);
            losses(&backbone, &part, &Perturbation::One { direction: direction.clone(), scale: 0.1 });
            losses(&backbone, &part, &Perturbation::Pair { direction: direction.clone(), eps: 0.1 });
            backbone.token_nll(&part, &Perturbation::Pair { direction: direction.clone(), eps: 0.1 });
            backbone.logits(&batch, Some(&adapter));
            loss_gradients(&backbone, &adapter, &[(1.0, &batch), (1e4, &batch)]);
            evaluate(&backbone, Some(&adapter), &[example(&[1, 2, 3], &[&[4], &[5, 6]])], |_| ());
            let request = Generation { prompt: &[1, 2], max_new_tokens: 4, stop: &[], sampling: Sampling::Greedy };
            generate(&backbone, Some(&adapter), &request, |_| true).unwrap();
        }
        assert!(backbone.hashes() == before);
    }
}

#[test]
fn updates_stay_in_memory() {
    let model = RandomModel::new();
    let file = std::fs::read(model.weights()).unwrap();
    for dtype in DTYPES {
        let mut backbone = model.load(dtype);
        let before = backbone.hashes();
        backbone.descend(&BackboneDirection::Seeded(1), 1e-2);
        let after = backbone.hashes();
        assert!(before.iter().zip(&after).all(|(before, after)| before != after), "a weight did not move");
    }
    assert!(file == std::fs::read(model.weights()).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_do_not_see_each_other(rows in rows(2..6, 2..40), seed: u64) {
        let model = RandomModel::new();
        let backbone = model.load(WeightDtype::F32);
        let adapter = model.adapter(1);
        let view = Perturbation::Pair { direction: BackboneDirection::Seeded(seed), eps: 1e-3 };
        let nll = |batch: &Batch| {
            let nll = values(backbone.token_nll(&[Part { batch, adapter: Some(&adapter) }], &view));
            let (plus, minus) = nll.split_at(nll.len() / 2);
            [plus.to_vec(), minus.to_vec()]
        };
        let together = nll(&rows_of(&rows));
        let alone: Vec<_> = rows.iter().map(|row| nll(&rows_of(std::slice::from_ref(row)))).collect();
        for sign in [0, 1] {
            let alone = alone.iter().flat_map(|both| both[sign].clone()).collect::<Vec<f32>>();
            assert_close(&together[sign], &alone, ROUNDING);
        }
    }

    /// p and s may be of any kind: what rides on one pass gives what passes of its own give, at θ and at both signs.
    #[test]
    fn parts_see_their_own_adapters(rows in rows(2..6, 2..40), seed: u64) {
        let model = RandomModel::new();
        let backbone = model.load(WeightDtype::F32);
        let prefix = PrefixConfig { virtual_tokens: 3, init: PrefixInit::Random };
        let prompt = PromptConfig { virtual_tokens: 4, init: PromptInit::Random };
        let adapters = [
            Some(model.adapter(1)),
            Some(model.virtual_tokens(&AdapterConfig::Prefix(prefix), 2)),
            None,
            Some(model.virtual_tokens(&AdapterConfig::Prompt(prompt), 3)),
            Some(model.adapter(4)),
        ];
        let batch = rows_of(&rows);
        let parts = adapters.each_ref().map(|adapter| Part { batch: &batch, adapter: adapter.as_ref() });
        let direction = BackboneDirection::Seeded(seed);
        let views = [
            Perturbation::None,
            Perturbation::One { direction: direction.clone(), scale: -1e-3 },
            Perturbation::Pair { direction, eps: 1e-3 },
        ];
        for view in views {
            let by_sign = |parts: &[Part]| {
                let nll = values(backbone.token_nll(parts, &view));
                nll.chunks_exact(nll.len() / view.signs()).map(<[f32]>::to_vec).collect::<Vec<_>>()
            };
            let together = by_sign(&parts);
            let alone = parts.map(|part| by_sign(&[part]));
            for (sign, together) in together.iter().enumerate() {
                let alone = alone.each_ref().map(|signs| signs[sign].as_slice());
                assert_close(together, &alone.concat(), ROUNDING);
            }
            for (index, one) in alone.iter().enumerate() {
                assert!(alone[..index].iter().all(|other| other != one), "two blocks did the same");
            }
        }
    }

    #[test]
    fn candidates_that_share_a_prompt_score_as_whole_rows(
        prompt in row(1..30),
        answers in prop::collection::vec(row(1..6), 2..5),
    ) {
        let model = RandomModel::new();
        let backbone = model.load(WeightDtype::F32);
        let adapter = model.adapter(1);
        let answers: Vec<&[u32]> = answers.iter().map(Vec::as_slice).collect();
        let examples = [example(&prompt, &answers), example(&[7, 8, 9], &[&[1], &[2]])];
        let scored = evaluate(&backbone, Some(&adapter), &examples, |_| ());
        for (example, scored) in examples.iter().zip(scored.examples) {
            for (candidate, logprobs) in example.candidates.iter().zip(scored.token_logprobs) {
                let batch = Batch::answers([candidate]);
                let part = [Part { batch: &batch, adapter: Some(&adapter) }];
                let whole = values(backbone.token_nll(&part, &Perturbation::None));
                let whole: Vec<f32> = whole.iter().map(|x| -x).collect();
                assert_close(&logprobs, &whole, ROUNDING);
            }
        }
    }

    #[test]
    fn both_signs_at_once_are_the_two_alone(rows in rows(1..5, 2..30), seed: u64) {
        let model = RandomModel::new();
        let adapter = model.adapter(1);
        let batch = rows_of(&rows);
        let parts = [Part { batch: &batch, adapter: Some(&adapter) }, Part { batch: &batch, adapter: None }];
        let direction = BackboneDirection::Seeded(seed);
        let eps = 1e-3;
        for dtype in DTYPES {
            let backbone = model.load(dtype);
            let nll = |view: &Perturbation| bits(&values(backbone.token_nll(&parts, view)));
            let both = nll(&Perturbation::Pair { direction: direction.clone(), eps });
            let one = |scale| nll(&Perturbation::One { direction: direction.clone(), scale });
            assert!(both == [one(eps), one(-eps)].concat(), "{dtype:?}");
        }
    }

    #[test]
    fn a_cache_gives_what_the_whole_row_gives(row in row(2..30), split in 1usize..29) {
        let model = RandomModel::new();
        let backbone = model.load(WeightDtype::F32);
        let adapter = model.adapter(1);
        let split = split.min(row.len() - 1);
        let whole = values(backbone.logits(&rows_of(std::slice::from_ref(&row)), Some(&adapter)));
        let (mut cache, vocabulary) = (KeyValueCache::default(), backbone.config().vocabulary);
        let mut expect = |ids: &[u32], position: usize| {
            let logits = values(backbone.next_logits(ids, Some(&adapter), &mut cache));
            assert_close(&logits, &whole[position * vocabulary..(position + 1) * vocabulary], ROUNDING);
        };
        expect(&row[..split], split - 1);
        for position in split..row.len() {
            expect(&row[position..=position], position);
        }
    }
}

/// The derivative along a direction, from gradients and from differences. Along the gradient it is largest, so that
/// rounding matters least; along random directions, elements that are small there count too.
#[test]
fn gradients_are_slopes_of_the_loss() {
    let model = RandomModel::new();
    let backbone = model.load(WeightDtype::F32);
    let adapter = model.adapter(1);
    let choices = [example(&[1, 2, 3], &[&[4], &[5, 6]]), example(&[7, 8, 9, 10], &[&[11, 12], &[13], &[14]])];
    let batches =
        [rows_of(&[(1..24).collect(), vec![3, 4, 5]]), rows_of(&[(50..70).collect()]), Batch::choices(&choices)];
    let terms = [(1.0, &batches[0]), (3.0, &batches[1]), (20.0, &batches[2])];
    let (_, gradients) = loss_gradients(&backbone, &adapter, &terms);
    let objective =
        |adapter: &Adapter| -> f64 { terms.iter().map(|(w, batch)| w * loss(&backbone, adapter, batch)).sum() };

    let norm = dot(&gradients, &gradients).sqrt();
    let mut directions = vec![gradients.clone()];
    directions.extend((0..4).map(|seed| model.noise_like(&adapter, seed)));
    for direction in directions {
        let length = dot(&direction, &direction).sqrt();
        let exact = dot(&gradients, &direction) / length;
        let slope = |step: f64| {
            let moved = |sign: f64| {
                let pairs = adapter.tensors().into_iter().zip(&direction);
                adapter.with_tensors(pairs.map(|((_, q), d)| q + d.clone() * (sign * step / length)).collect())
            };
            (objective(&moved(1.0)) - objective(&moved(-1.0))) / (2.0 * step)
        };
        // Richardson's extrapolation: without the error of second order, the step may be large against rounding.
        let slope = (4.0 * slope(5e-3) - slope(1e-2)) / 3.0;
        // The curvature that is left grows with the slope, rounding does not.
        let tolerance = 2e-4 * exact.abs() + 2e-5 * norm;
        assert!((slope - exact).abs() < tolerance, "{slope} for {exact}, where the gradient's length is {norm}");
    }
}

#[test]
fn replay_gives_the_same_bits() {
    let model = RandomModel::new();
    let kinds = [
        DirectionKind::default(),
        DirectionKind { distribution: ElementDistribution::Rademacher, layers: Some(vec![1]), ..Default::default() },
        DirectionKind {
            distribution: ElementDistribution::Sphere,
            names: Some(".*proj.*".into()),
            ..Default::default()
        },
        DirectionKind { rank: NonZeroUsize::new(3), ..Default::default() },
        DirectionKind { elements: Some(mask(ElementChoice::Random)), ..Default::default() },
        DirectionKind { elements: Some(mask(ElementChoice::Smallest)), ..Default::default() },
    ];
    let momentum = Some(Momentum { decay: 0.9, window: NonZeroU32::new(3).unwrap() });
    let optimizers = BackboneOptimizer::ALL.map(|kind| (kind, None)).into_iter();
    let optimizers = optimizers.chain([(BackboneOptimizer::Sgd, momentum)]);
    for ((dtype, kind), (optimizer, momentum)) in product(product(DTYPES, kinds), optimizers) {
        // The moments of Adam would move what is masked; configurations refuse it.
        if kind.elements.is_some() && optimizer == BackboneOptimizer::Adam {
            continue;
        }
        for (decay, count) in [(0.0, 1), (0.5, 3)] {
            let mut backbone = model.load(dtype);
            let space = Arc::new(DirectionSpace::new(kind.clone(), &backbone).unwrap());
            let updater = || {
                let new = || BackboneUpdater::new(optimizer);
                momentum.map_or_else(new, BackboneUpdater::with_momentum).with_weight_decay(decay)
            };
            let (mut records, mut first) = (Vec::new(), updater());
            for (step, slope) in (1..).zip([0.3, -1.7, 12.5, f64::NAN, 0.01, 2.5]) {
                let mut random = SplitMix64::keyed(9, "direction", step);
                let seeds: Vec<u64> = (0..count).map(|_| random.next_u64()).collect();
                let directions: Vec<_> = seeds.iter().map(|&seed| space.direction(seed, &backbone)).collect();
                let slopes: Vec<f64> = (0..count).map(|i| slope * (1.0 + i as f64)).collect();
                let learning_rate = 1e-4 * step as f64;
                let estimate = StepEstimate { number: step, directions: &directions, slopes: &slopes, learning_rate };
                let steps = first.step(&mut backbone, &estimate).unwrap();
                for (i, step_of) in steps.into_iter().enumerate() {
                    let Some(coefficient) = step_of.coefficient() else { continue };
                    let slope = BackboneUpdater::recorded_slope(&directions[i], slopes[i]);
                    let learning_rate = learning_rate as f32;
                    records.push(Record { step, seed: seeds[i], slope, learning_rate, coefficient });
                }
            }
            let mut again = model.load(dtype);
            assert!(again.hashes() != backbone.hashes(), "θ did not move");
            let mut second = updater();
            let steps: Vec<&[Record]> = records.chunk_by(|left, right| left.step == right.step).collect();
            assert_eq!(steps.len(), 5);
            for (place, step) in steps.into_iter().enumerate() {
                if place == 3 && optimizer != BackboneOptimizer::Adam {
                    // As from a snapshot: another one that knows the records before.
                    second = updater();
                    second.remember(&space, &records[..place * count]);
                }
                second.replay(&mut again, &space, step);
            }
            let context = format!("{optimizer:?}, {momentum:?}, {dtype:?}, {kind:?}, decay {decay}");
            assert!(again.hashes() == backbone.hashes(), "{context}");
        }
    }
}

/// θ after some steps of `sgd` of θ's direction by step number, with slopes that may be refused.
fn moved(
    model: &RandomModel,
    dtype: WeightDtype,
    mut updater: BackboneUpdater,
    slopes: &[(u64, f64)],
) -> Vec<[u8; 32]> {
    let mut backbone = model.load(dtype);
    for &(number, slope) in slopes {
        let directions = &[BackboneDirection::Seeded(number)];
        let estimate = StepEstimate { number, directions, slopes: &[slope], learning_rate: 1e-3 };
        updater.step(&mut backbone, &estimate).unwrap();
    }
    backbone.hashes()
}

#[test]
fn a_window_of_one_step_is_plain_sgd() {
    let model = RandomModel::new();
    for dtype in DTYPES {
        let of = |updater| moved(&model, dtype, updater, &[(1, 0.3), (2, -1.7), (3, 12.5)]);
        let with_momentum = |decay, window| {
            BackboneUpdater::with_momentum(Momentum { decay, window: NonZeroU32::new(window).unwrap() })
        };
        let plain = of(BackboneUpdater::new(BackboneOptimizer::Sgd));
        assert!(of(with_momentum(0.9, 1)) == plain, "{dtype:?}");
        assert!(of(with_momentum(0.0, 1)) == plain, "{dtype:?}");
        assert!(of(with_momentum(0.9, 2)) != plain, "{dtype:?}");
    }
}

/// Its gradient is 0, θ stays, and gradients before it are a step older.
#[test]
fn a_skipped_step_counts_as_one_without_a_gradient() {
    let model = RandomModel::new();
    for dtype in DTYPES {
        let momentum = Momentum { decay: 0.5, window: NonZeroU32::new(3).unwrap() };
        let slopes = [(1, 2.0), (2, f64::NAN), (3, 4.0), (4, f64::NAN), (5, f64::NAN), (6, 8.0)];
        let found = moved(&model, dtype, BackboneUpdater::with_momentum(momentum), &slopes);
        let mut backbone = model.load(dtype);
        let rate = 1e-3f32;
        // Seed, slope times what is left of it, and how often the direction was used before.
        for (seed, slope, turn) in [(1, 2.0, 0), (3, 4.0, 0), (1, 0.25 * 2.0, 2), (6, 8.0, 0)] {
            let rate = if turn == 0 { 1e-3 } else { f64::from(rate) };
            let coefficient = (rate * slope) as f32;
            backbone.descend(&BackboneDirection::Seeded(seed), Descent { keep: 1.0, coefficient, turn });
        }
        assert!(found == backbone.hashes(), "{dtype:?}");
    }
}

/// Three tenths of the elements.
fn mask(by: ElementChoice) -> ElementMask {
    ElementMask { by, share: 0.3, seed: 8 }
}

fn product<A: Clone, B>(
    left: impl IntoIterator<Item = A>,
    right: impl IntoIterator<Item = B, IntoIter: Clone>,
) -> impl Iterator<Item = (A, B)> {
    let right = right.into_iter();
    left.into_iter().flat_map(move |left| right.clone().map(move |right| (left.clone(), right)))
}

#[test]
fn threads_change_no_bit() {
    let model = RandomModel::new();
    for dtype in DTYPES {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| everything(&model, dtype))
        };
        let one = on(1);
        for threads in [2, 5] {
            assert!(on(threads) == one, "{threads} threads, {dtype:?}");
        }
    }
}

/// The bits of all that is computed: losses, logits, gradients, scores, and what two outer steps make of θ, p and s.
fn everything(model: &RandomModel, dtype: WeightDtype) -> (Vec<u32>, Vec<u64>, Vec<[u8; 32]>) {
    let backbone = model.load(dtype);
    let [adapter, shadow] = [1, 2].map(|seed| model.adapter(seed));
    let batch = rows_of(&[(1..40).collect(), vec![3, 4, 5], (90..160).collect()]);
    let parts = [Part { batch: &batch, adapter: Some(&adapter) }, Part { batch: &batch, adapter: Some(&shadow) }];
    let view = Perturbation::Pair { direction: BackboneDirection::Seeded(4), eps: 1e-3 };
    let mut real = losses(&backbone, &parts, &view).concat();
    let mut single = bits(&values(backbone.logits(&batch, Some(&adapter))));
    let (loss, gradients) = loss_gradients(&backbone, &adapter, &[(1.0, &batch), (1e4, &batch)]);
    real.extend(loss);
    single.extend(gradients.into_iter().flat_map(|gradient| bits(&values(gradient))));
    let examples = [example(&[1, 2, 3], &[&[4], &[5, 6]]), example(&[7, 8], &[&[4, 4], &[5, 6]])];
    let evaluation = evaluate(&backbone, Some(&adapter), &examples, |_| ());
    real.extend(evaluation.examples.into_iter().flat_map(|scored| scored.scores));

    let mut method = bilevel(backbone, adapter, shadow, 2);
    for seed in [11, 12] {
        let input = StepInput::new(vec![BackboneDirection::Seeded(seed)], RATES);
        let report = method.step(&input, &mut RandomBatches(seed)).unwrap();
        let losses = report.outer.unwrap();
        real.extend([losses.a, losses.b, losses.c, report.updates[0].estimate.slope]);
    }
    for block in [&method.adapter.values, &method.shadow.values] {
        single.extend(block.tensors().into_iter().flat_map(|(_, tensor)| bits(&values(tensor))));
    }
    let real = real.into_iter().map(f64::to_bits).collect();
    (single, real, method.backbone.hashes())
}

const RATES: LearningRates = LearningRates { shadow: 1e-3, adapter: 1e-3, backbone: 1e-4 };

fn bilevel(backbone: Backbone, adapter: Adapter, shadow: Adapter, inner_steps: usize) -> Bilevel {
    Bilevel {
        backbone,
        adapter: Block::new(adapter, Optimizer::AdamW),
        shadow: Block::new(shadow, Optimizer::AdamW),
        backbone_optimizer: BackboneUpdater::new(BackboneOptimizer::Rms),
        objective: Objective::Loss,
        spsa: Spsa::two_sided(1e-3),
        conservative: false,
        penalty: 1e4,
        penalty_normalized: false,
        inner_steps,
        inner_accumulate: 1,
        outer_accumulate: 1,
    }
}

#[test]
fn dropout_masks_gradients_and_no_reported_loss() {
    let model = RandomModel::new();
    let step = |adapter: &Adapter, dropout_seed| {
        // Without inner steps s is p, and b is c.
        let mut method = bilevel(model.load(WeightDtype::F32), adapter.clone(), adapter.clone(), 0);
        let input = StepInput { dropout_seed, ..StepInput::new(vec![BackboneDirection::Seeded(5)], RATES) };
        let report = method.step(&input, &mut RandomBatches(6)).unwrap();
        let p = method.adapter.values.tensors();
        let moved = p.into_iter().flat_map(|(_, tensor)| values(tensor)).collect::<Vec<_>>();
        (report.outer.unwrap(), report.updates[0].estimate.slope, moved)
    };
    let (plain, slope, without) = step(&model.adapter(1), 1);
    let masked = model.adapter_with_dropout(1, 0.5);
    let [(one, one_slope, with), (other, other_slope, with_others)] = [1, 2].map(|seed| step(&masked, seed));
    assert!(with != without && with != with_others, "the gradients have no masks");
    assert_eq!([one_slope, other_slope], [slope; 2]);
    for losses in [one, other] {
        assert_eq!((losses.b, losses.c), (losses.c, plain.c));
        // At θ, and the mean of both signs.
        assert!((losses.a - plain.a).abs() < 1e-3 && (losses.b - plain.b).abs() < 1e-3);
    }
}

/// Three rows of random tokens each time, from a seed.
struct RandomBatches(u64);

impl RandomBatches {
    fn draw(&mut self) -> Batch {
        self.0 += 1;
        let mut random = SplitMix64::keyed(self.0, "batch", 0);
        let mut row = |len: usize| (0..len).map(|_| random.next_u64() as u32 % RandomModel::VOCABULARY).collect();
        rows_of(&[row(7), row(25), row(12)])
    }
}

impl Batches for RandomBatches {
    fn inner(&mut self) -> Batch {
        self.draw()
    }

    fn outer(&mut self) -> Batch {
        self.draw()
    }

    fn penalty(&mut self) -> Batch {
        self.draw()
    }
}

/// Rows that count in every token but the first.
fn rows_of(rows: &[Vec<u32>]) -> Batch {
    let labels: Vec<Vec<Option<u32>>> = rows.iter().map(|row| row.iter().copied().map(Some).collect()).collect();
    Batch::labelled(rows.iter().zip(&labels).map(|(row, labels)| (row.as_slice(), labels.as_slice())))
}

fn example(prompt: &[u32], answers: &[&[u32]]) -> EncodedExample {
    let candidate = |answer: &&[u32]| EncodedCandidate::new([prompt, answer].concat(), answer.len());
    EncodedExample { candidates: answers.iter().map(candidate).collect(), golds: vec![0], line: 1 }
}

fn row(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..RandomModel::VOCABULARY, len)
}

fn rows(count: std::ops::Range<usize>, len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(row(len), count)
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn dot(left: &[Tensor<2>], right: &[Tensor<2>]) -> f64 {
    let products = left.iter().zip(right).flat_map(|(left, right)| {
        let pairs = values(left.clone()).into_iter().zip(values(right.clone()));
        pairs.map(|(left, right)| f64::from(left) * f64::from(right)).collect::<Vec<f64>>()
    });
    products.sum()
}

fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!((actual - expected).abs() <= tolerance, "value {index} is {actual}, expected {expected}");
    }
}
