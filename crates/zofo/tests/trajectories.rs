//! Twenty steps of MeZO, on θ and on a block, against a reference that keeps θ and the optimizer in f64, makes whole
//! directions, and evaluates each side with weights of its own.

mod random_model;
mod reference;

use burn::tensor::{Device, Tensor, TensorData};
use random_model::RandomModel;
use reference::{EPS, Reference, Setting, Vectors};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use std::num::NonZeroUsize;
use std::sync::Arc;
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::{Backbone, Batch, Part};
use zofo::peft::Adapter;
use zofo::run::config::Optimizer;
use zofo::task::SplitMix64;
use zofo::train::bilevel::Bilevel;
use zofo::train::loss::losses;
use zofo::train::mezo::Mezo;
use zofo::train::mezo_peft::MezoPeft;
use zofo::train::objective::Objective;
use zofo::train::{Batches, Block, LearningRates, StepInput, StepReport};
use zofo::zo::estimator::{Sides, Spsa};
use zofo::zo::optimizer::BackboneOptimizer;
use zofo::zo::space::{DirectionKind, DirectionSpace, ElementChoice, ElementDistribution, ElementMask};
use zofo::zo::update::{BackboneUpdater, UpdaterState};
use zofo::zo::{BackboneDirection, Perturbation};

const STEPS: u64 = 20;

fn check_slopes(report: &StepReport, expected: &[f64], context: &str) {
    assert_eq!(report.updates.len(), expected.len());
    for (update, expected) in report.updates.iter().zip(expected) {
        let slope = update.estimate.slope;
        assert!((slope - expected).abs() < 0.01 + 0.01 * expected.abs(), "{context}: slope {slope} for {expected}");
    }
}

/// MeZO on θ beside the reference.
fn follow(setting: &Setting, context: &str) {
    let model = RandomModel::new();
    let backbone = model.load(WeightDtype::F32);
    let space = Arc::new(DirectionSpace::new(setting.kind.clone(), &backbone).unwrap());
    let mut reference = Reference::new(setting, weights(&backbone));
    let shapes = backbone.parameters().iter().map(|weight| (weight.name().to_owned(), weight.shape().to_vec()));
    reference.shapes = shapes.collect();
    let mut mezo = Mezo {
        backbone,
        adapter: None,
        backbone_optimizer: setting.updater(),
        objective: Objective::Loss,
        spsa: setting.spsa(),
        conservative: false,
        accumulate: 1,
    };
    for step in 0..STEPS {
        let directions = setting.seeds(step).into_iter().map(|seed| space.direction(seed, &mezo.backbone)).collect();
        let input = StepInput { done: step, ..StepInput::new(directions, setting.rates(step)) };
        let report = mezo.step(&input, &mut RandomBatches(step)).unwrap();
        let batch = RandomBatches(step).outer();
        let expected = reference.step(step, |theta| {
            let backbone = load(&model, theta);
            losses(&backbone, &[Part { batch: &batch, adapter: None }], &Perturbation::None)[0][0]
        });
        check_slopes(&report, &expected, &format!("{context}, step {step}"));
    }
    reference.check(&weights(&mezo.backbone), context);
}

#[test]
fn mezo_follows_the_reference_with_every_optimizer() {
    for optimizer in BackboneOptimizer::ALL {
        follow(&Setting::plain(optimizer), optimizer.name());
    }
}

#[test]
fn mezo_follows_the_reference_with_every_option() {
    let rms = Setting::plain(BackboneOptimizer::Rms);
    let adam = Setting::plain(BackboneOptimizer::Adam);
    follow(&Setting { sides: Sides::One, ..rms.clone() }, "one side");
    follow(&Setting { directions: 3, ..rms.clone() }, "three directions");
    follow(&Setting { directions: 3, ..adam.clone() }, "three directions, adam");
    follow(&Setting { sides: Sides::One, directions: 2, decay: 3.0, ..rms.clone() }, "one side, decay");
    follow(&Setting { decay: 3.0, ..adam.clone() }, "decay, adam");
    let of_sphere = DirectionKind { distribution: ElementDistribution::Sphere, ..DirectionKind::default() };
    follow(&Setting { kind: of_sphere.clone(), ..rms.clone() }, "sphere");
    follow(&Setting { kind: of_sphere, ..adam.clone() }, "sphere, adam");
}

#[test]
fn mezo_with_momentum_follows_the_reference() {
    let short = Setting::with_momentum(0.9, 4, 6e-5);
    follow(&short, "a window of four");
    follow(&Setting::with_momentum(0.9, 30, 3e-5), "a window longer than the run");
    follow(&Setting::with_momentum(0.9, 1, 2e-4), "a window of one");
    follow(&Setting { directions: 3, decay: 3.0, ..Setting::with_momentum(0.5, 10, 1e-4) }, "three directions, decay");
    for kind in [
        DirectionKind { distribution: ElementDistribution::Sphere, ..DirectionKind::default() },
        DirectionKind { rank: NonZeroUsize::new(2), ..DirectionKind::default() },
        DirectionKind { names: Some(".*mlp.*".to_owned()), layers: Some(vec![0]), ..DirectionKind::default() },
    ] {
        let context = format!("momentum, {kind:?}");
        follow(&Setting { kind, sides: Sides::One, ..short.clone() }, &context);
    }
}

#[test]
fn mezo_follows_the_reference_along_directions_of_low_rank() {
    for (optimizer, rank) in [(BackboneOptimizer::Rms, 2), (BackboneOptimizer::Adam, 1), (BackboneOptimizer::Sgd, 5)] {
        let kind = DirectionKind { rank: NonZeroUsize::new(rank), ..DirectionKind::default() };
        follow(&Setting { kind, decay: 3.0, ..Setting::plain(optimizer) }, &format!("rank {rank}, {optimizer:?}"));
    }
}

#[test]
fn mezo_follows_the_reference_with_every_mask() {
    let rms = Setting::plain(BackboneOptimizer::Rms);
    let names = DirectionKind { names: Some(".*mlp.*".to_owned()), ..DirectionKind::default() };
    let layers = DirectionKind { layers: Some(vec![1]), ..DirectionKind::default() };
    follow(&Setting { kind: names.clone(), decay: 3.0, ..rms.clone() }, "names");
    follow(&Setting { kind: DirectionKind { layers: Some(vec![0]), ..names }, ..rms.clone() }, "names in a layer");
    follow(&Setting { kind: layers, ..Setting::plain(BackboneOptimizer::Adam) }, "a layer, adam");
    for (by, distribution) in [
        (ElementChoice::Smallest, ElementDistribution::Gaussian),
        (ElementChoice::Largest, ElementDistribution::Sphere),
    ] {
        let elements = Some(ElementMask { by, share: 0.25, seed: 0 });
        let kind = DirectionKind { elements, distribution, ..DirectionKind::default() };
        follow(&Setting { kind, decay: 3.0, ..rms.clone() }, &format!("{by:?}"));
    }
}

#[test]
fn a_random_mask_leaves_its_share_and_is_the_same_in_every_step() {
    let model = RandomModel::new();
    let mut backbone = model.load(WeightDtype::F32);
    let elements = Some(ElementMask { by: ElementChoice::Random, share: 0.2, seed: 3 });
    for distribution in [ElementDistribution::Gaussian, ElementDistribution::Rademacher] {
        let kind = DirectionKind { elements: elements.clone(), distribution, ..DirectionKind::default() };
        let space = Arc::new(DirectionSpace::new(kind, &backbone).unwrap());
        let mut moved = Vec::new();
        for seed in [1, 2] {
            let before = weights(&backbone);
            backbone.descend(&space.direction(seed, &backbone), 0.25);
            let after = weights(&backbone);
            let pairs = before.values().flatten().zip(after.values().flatten());
            moved.push(pairs.map(|(before, after)| before != after).collect::<Vec<bool>>());
        }
        assert_eq!(moved[0], moved[1]);
        let share = moved[0].iter().filter(|moved| **moved).count() as f64 / moved[0].len() as f64;
        // Five standard errors of a share of 0.2.
        assert!((share - 0.2).abs() < 5.0 * (0.16 / moved[0].len() as f64).sqrt(), "{share}");
    }
}

#[test]
fn mezo_on_a_block_follows_the_reference() {
    let model = RandomModel::new();
    for optimizer in BackboneOptimizer::ALL {
        for directions in [1, 2] {
            let setting = Setting { directions, ..Setting::plain(optimizer) };
            let block = model.adapter(1);
            let mut reference = Reference::new(&setting, vectors(&block));
            let mut mezo = MezoPeft {
                backbone: model.load(WeightDtype::F32),
                adapter: Block::new(block.clone(), Optimizer::Adam),
                rule: UpdaterState::new(optimizer),
                objective: Objective::Loss,
                spsa: setting.spsa(),
                accumulate: 1,
            };
            let untouched = mezo.backbone.hashes();
            let context = format!("{optimizer:?} over {directions} directions");
            for step in 0..STEPS {
                let directions = setting.seeds(step).into_iter().map(BackboneDirection::Seeded).collect();
                let input = StepInput::new(directions, setting.rates(step));
                let report = mezo.step(&input, &mut RandomBatches(step)).unwrap();
                let batch = RandomBatches(step).outer();
                let expected = reference.step(step, |p| {
                    let adapter = Some(&with_vectors(&block, p));
                    losses(&mezo.backbone, &[Part { batch: &batch, adapter }], &Perturbation::None)[0][0]
                });
                check_slopes(&report, &expected, &format!("{context}, step {step}"));
            }
            reference.check(&vectors(&mezo.adapter.values), &context);
            assert!(mezo.backbone.hashes() == untouched, "{context}: θ moved");
        }
    }
}

#[test]
fn signs_move_every_value_of_a_block_equally_far() {
    let model = RandomModel::new();
    let kind = DirectionKind { distribution: ElementDistribution::Rademacher, ..DirectionKind::default() };
    let space = Arc::new(DirectionSpace::of_block(kind));
    let mut mezo = MezoPeft {
        backbone: model.load(WeightDtype::F32),
        adapter: Block::new(model.adapter(1), Optimizer::Adam),
        rule: UpdaterState::new(BackboneOptimizer::Sign),
        objective: Objective::Loss,
        spsa: Spsa::two_sided(EPS as f32),
        accumulate: 2,
    };
    let before = vectors(&mezo.adapter.values);
    let rates = LearningRates { backbone: 0.25, ..LearningRates::default() };
    let directions = vec![space.direction(3, &mezo.backbone)];
    let report = mezo.step(&StepInput::new(directions, rates), &mut RandomBatches(1)).unwrap();
    assert_ne!(report.updates[0].estimate.slope, 0.0);
    let after = vectors(&mezo.adapter.values);
    for (before, after) in before.values().flatten().zip(after.values().flatten()) {
        assert!(((before - after).abs() - 0.25).abs() < 1e-6, "{before} became {after}");
    }
}

#[test]
fn accumulated_batches_are_one_batch_of_all_of_them() {
    /// Batches of one row each, or of all rows at once: all rows have as many labels.
    struct Rows {
        rows: Vec<Vec<u32>>,
        at_once: usize,
    }
    impl Rows {
        fn draw(&mut self) -> Batch {
            let rest = self.rows.split_off(self.at_once);
            rows_of(&std::mem::replace(&mut self.rows, rest))
        }
    }
    impl Batches for Rows {
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
    let model = RandomModel::new();
    let mut random = SplitMix64::keyed(4, "rows", 0);
    let mut row = || (0..15).map(|_| random.next_u64() as u32 % RandomModel::VOCABULARY).collect::<Vec<u32>>();
    // Two rows for s; then B_f and B_p in turn.
    let [s1, s2, f1, p1, f2, p2] = [0; 6].map(|_| row());
    let input =
        StepInput::new(vec![BackboneDirection::Seeded(2)], LearningRates { shadow: 0.1, adapter: 0.1, backbone: 1e-4 });
    let run = |rows: Vec<Vec<u32>>, at_once: usize, accumulate: usize| {
        let mut method = bilevel(&model);
        (method.inner_accumulate, method.outer_accumulate) = (accumulate, accumulate);
        let report = method.step(&input, &mut Rows { rows, at_once }).unwrap();
        (method, report)
    };
    let rows = vec![s1.clone(), s2.clone(), f1.clone(), p1.clone(), f2.clone(), p2.clone()];
    let (apart, apart_report) = run(rows, 1, 2);
    let (whole, whole_report) = run(vec![s1, s2, f1, f2, p1, p2], 2, 1);
    assert_eq!(apart_report.tokens, whole_report.tokens);
    let [left, right] = [&apart_report, &whole_report].map(|report| report.outer.unwrap());
    for (left, right) in [(left.a, right.a), (left.b, right.b), (left.c, right.c)] {
        assert!((left - right).abs() < 1e-6, "{left}, at once {right}");
    }
    let [left, right] = [apart_report, whole_report].map(|report| report.updates[0].estimate.slope);
    assert!((left - right).abs() < 0.02, "{left}, at once {right}");
    for (left, right) in [(&apart.adapter, &whole.adapter), (&apart.shadow, &whole.shadow)] {
        for (left, right) in vectors(&left.values).values().flatten().zip(vectors(&right.values).values().flatten()) {
            assert!((left - right).abs() < 1e-5, "{left}, at once {right}");
        }
    }
}

#[test]
fn a_normalized_penalty_divides_the_objective_and_its_warm_up_scales_the_penalty() {
    let model = RandomModel::new();
    let rates = LearningRates { shadow: 0.1, adapter: 1e-2, backbone: 0.0 };
    let run = |penalty: f64, normalized: bool, share: f64, rate: f64| {
        let mut method = bilevel(&model);
        (method.penalty, method.penalty_normalized) = (penalty, normalized);
        let rates = LearningRates { adapter: rates.adapter * rate, ..rates };
        let input = StepInput { penalty_share: share, ..StepInput::new(vec![BackboneDirection::Seeded(2)], rates) };
        let report = method.step(&input, &mut RandomBatches(1)).unwrap();
        (report.updates[0].estimate, vectors(&method.adapter.values))
    };
    let close = |left: &Vectors, right: &Vectors| {
        left.values().flatten().zip(right.values().flatten()).all(|(left, right)| (left - right).abs() < 1e-5)
    };
    let (plain, p) = run(3.0, false, 1.0, 1.0);
    let (normalized, of_normalized) = run(3.0, true, 1.0, 4.0);
    assert!((normalized.plus * 4.0 - plain.plus).abs() < 1e-12 && (normalized.slope * 4.0 - plain.slope).abs() < 1e-9);
    assert!(close(&p, &of_normalized));
    let (warm, of_warm) = run(6.0, false, 0.5, 1.0);
    assert_eq!(warm, plain);
    assert_eq!(p, of_warm);
    assert!(!close(&p, &run(6.0, false, 1.0, 1.0).1));
}

/// With SGD throughout.
fn bilevel(model: &RandomModel) -> Bilevel {
    Bilevel {
        backbone: model.load(WeightDtype::F32),
        adapter: Block::new(model.adapter(1), Optimizer::Sgd),
        shadow: Block::new(model.adapter(2), Optimizer::Sgd),
        backbone_optimizer: BackboneUpdater::new(BackboneOptimizer::Sgd),
        objective: Objective::Loss,
        spsa: Spsa::two_sided(EPS as f32),
        conservative: false,
        penalty: 2.0,
        penalty_normalized: false,
        inner_steps: 1,
        inner_accumulate: 1,
        outer_accumulate: 1,
    }
}

/// Three rows of random tokens each time, from a seed.
struct RandomBatches(u64);

impl RandomBatches {
    fn draw(&mut self, purpose: &str) -> Batch {
        let mut random = SplitMix64::keyed(self.0, purpose, 0);
        let mut row = |len: usize| (0..len).map(|_| random.next_u64() as u32 % RandomModel::VOCABULARY).collect();
        rows_of(&[row(7), row(25), row(12)])
    }
}

impl Batches for RandomBatches {
    fn inner(&mut self) -> Batch {
        self.draw("inner")
    }

    fn outer(&mut self) -> Batch {
        self.draw("outer")
    }

    fn penalty(&mut self) -> Batch {
        self.draw("penalty")
    }
}

/// Rows that count in every token but the first.
fn rows_of(rows: &[Vec<u32>]) -> Batch {
    let labels: Vec<Vec<Option<u32>>> = rows.iter().map(|row| row.iter().copied().map(Some).collect()).collect();
    Batch::labelled(rows.iter().zip(&labels).map(|(row, labels)| (row.as_slice(), labels.as_slice())))
}

/// θ.
fn weights(backbone: &Backbone) -> Vectors {
    let parameters = backbone.parameters().iter();
    parameters.map(|parameter| (parameter.name().to_owned(), values(parameter.value()))).collect()
}

/// A model of the same shape with these weights, rounded to f32.
fn load(model: &RandomModel, weights: &Vectors) -> Backbone {
    let folder = tempfile::tempdir().unwrap();
    let source = model.weights();
    std::fs::copy(source.with_file_name("config.json"), folder.path().join("config.json")).unwrap();
    let shapes = model.load(WeightDtype::F32);
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = shapes
        .parameters()
        .iter()
        .map(|parameter| {
            let values = weights[parameter.name()].iter();
            (parameter.name(), parameter.shape(), values.flat_map(|value| (*value as f32).to_le_bytes()).collect())
        })
        .collect();
    let views =
        bytes.iter().map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    let files = ModelFiles::open(folder.path()).unwrap();
    Backbone::load(&files, WeightDtype::F32, &Device::flex()).unwrap()
}

fn vectors(block: &Adapter) -> Vectors {
    block.tensors().into_iter().map(|(name, tensor)| (name, values(tensor))).collect()
}

fn with_vectors(block: &Adapter, vectors: &Vectors) -> Adapter {
    let tensor = |(name, like): (String, Tensor<2>)| {
        let values: Vec<f32> = vectors[&name].iter().map(|value| *value as f32).collect();
        Tensor::from_data(TensorData::new(values, like.dims()), &like.device())
    };
    block.with_tensors(block.tensors().into_iter().map(tensor).collect())
}

fn values(tensor: Tensor<2>) -> Vec<f64> {
    tensor.into_data().iter::<f32>().map(f64::from).collect()
}
