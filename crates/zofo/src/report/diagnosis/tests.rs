//! Made-up runs that show a sign, and some that nearly do.

use super::{Sign, diagnose};
use crate::report::metrics::{Evaluation, Step};
use crate::report::panel::{Panel, panels};
use crate::report::run::{Run, RunState, TestScore};
use crate::task::Metric;
use std::path::Path;

/// A finished run of 100 steps. `settings` are `key=value`, between spaces.
fn run(settings: &str) -> Run {
    let pairs = settings.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    let mut run = Run::read(Path::new("/none/such"), "run");
    run.settings = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    run.problems.clear();
    run.state = RunState::Finished;
    run.metric = Some(Metric::Accuracy);
    run.step_count = 100;
    run
}

/// Evaluations at even distances, from step 0 to step 100: what the metric says, and the loss.
fn evaluated(mut run: Run, values: &[(f64, f64)]) -> Run {
    let step = |index: usize| (index * 100 / (values.len() - 1).max(1)) as u64;
    let evaluation = |(index, &(value, loss)): (usize, &(f64, f64))| Evaluation {
        step: step(index),
        value: Some(value),
        loss: Some(loss),
        noise_floor: None,
        best: false,
        seconds: None,
    };
    run.evaluations = values.iter().enumerate().map(evaluation).collect();
    let best = values.iter().enumerate().rev().max_by(|left, right| left.1.0.total_cmp(&right.1.0)).unwrap().0;
    run.kept_step = Some(step(best));
    run
}

/// Steps 1, 2, … that logged `name`.
fn logged(mut run: Run, name: &'static str, values: impl IntoIterator<Item = f64>) -> Run {
    let step = |(index, value): (usize, f64)| Step {
        step: index as u64 + 1,
        training_seconds: None,
        seconds: None,
        values: vec![(name, value)],
        skipped: false,
    };
    run.steps = values.into_iter().enumerate().map(step).collect();
    run.step_count = run.steps.len() as u64;
    run
}

fn panel(runs: &[Run]) -> Panel {
    let mut panels = panels(runs);
    assert_eq!(panels.len(), 1);
    panels.remove(0)
}

/// The label, the sign, the evidence and the advice of all that is found.
fn found(runs: &[Run]) -> Vec<(String, Sign, String, String)> {
    let panel = panel(runs);
    assert_eq!(diagnose(&panel, runs), panel.diagnoses);
    let text = |diagnosis: super::Diagnosis| {
        let label = panel.groups[diagnosis.group].label.clone();
        (label, diagnosis.sign, diagnosis.evidence, diagnosis.advice)
    };
    panel.diagnoses.clone().into_iter().map(text).collect()
}

/// The only finding.
fn only(runs: &[Run], sign: Sign) -> (String, String) {
    let mut all = found(runs);
    assert_eq!(all.len(), 1, "{all:?}");
    let (_, is, evidence, advice) = all.remove(0);
    assert_eq!(is, sign);
    (evidence, advice)
}

/// Validation losses; the metric rises all the way, so that nothing else is found.
fn losses(run: Run, losses: &[f64]) -> Run {
    let values: Vec<(f64, f64)> = losses.iter().enumerate().map(|(i, &loss)| (0.5 + 0.01 * i as f64, loss)).collect();
    evaluated(run, &values)
}

const ZIGZAG: [f64; 10] = [2.0, 0.6, 0.9, 0.6, 0.9, 0.6, 0.9, 0.6, 0.9, 0.6];

#[test]
fn a_validation_loss_that_goes_to_and_fro_asks_for_more_inner_steps() {
    let bilevel = |settings: &str| losses(run(&format!("method.name=bilevel {settings}")), &ZIGZAG);
    let (evidence, advice) = only(&[bilevel("method.inner_steps=1")], Sign::OscillatingLoss);
    // Nine points after step 0: eight changes of 0.3 about a mean of 0.7333, and seven points at which to turn.
    let words = "the validation loss turns at 7 of 7 points, by 0.300 on average in the first half and 0.300 in the second, 41 %";
    assert!(evidence.contains(words), "{evidence}");
    assert_eq!(advice, "set T, method.inner_steps (now 1), to 20 to 50");
    assert!(only(&[bilevel("method.inner_steps=20")], Sign::OscillatingLoss).1.ends_with("(now 20), to 50"));
    let (_, advice) = only(&[bilevel("method.inner_steps=50 inner.lr=1e-3")], Sign::OscillatingLoss);
    assert!(advice.contains("lower the rates, inner.lr (now 1e-3)"), "{advice}");
}

#[test]
fn a_loss_that_comes_to_rest_or_hardly_moves_does_not_oscillate() {
    let bilevel = |values: &[f64]| losses(run("method.name=bilevel method.inner_steps=1"), values);
    let shrinking: Vec<f64> = (0..10).map(|i| 0.7 + (-0.6f64).powi(i)).collect();
    let small: Vec<f64> = ZIGZAG.iter().map(|loss| 0.7 + 0.01 * loss).collect();
    let falling: Vec<f64> = (0..10).map(|i| 2.0 / f64::from(i + 1)).collect();
    for values in [&shrinking, &small, &falling, &ZIGZAG[..8].to_vec()] {
        assert_eq!(found(&[bilevel(values)]), [], "{values:?}");
    }
    // MeZO has no T.
    assert_eq!(found(&[losses(run("method.name=mezo"), &ZIGZAG)]), []);
    // One of three seeds is no group.
    let seed = |seed: u64, values: &[f64]| {
        losses(run(&format!("method.name=bilevel method.inner_steps=1 run.seed={seed}")), values)
    };
    assert_eq!(found(&[seed(0, &ZIGZAG), seed(1, &falling), seed(2, &falling)]), []);
    let (evidence, _) = only(&[seed(0, &ZIGZAG), seed(1, &ZIGZAG), seed(2, &falling)], Sign::OscillatingLoss);
    assert!(evidence.starts_with("2 of 3 runs: "), "{evidence}");
}

#[test]
fn inner_losses_oscillate_if_random_batches_would_not() {
    let bilevel = || run("method.name=bilevel method.inner_steps=1");
    // Numbers of a linear congruential generator stand for the losses of random batches.
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    let batches: Vec<f64> = (0..200).map(|_| 0.5 + 0.5 * random()).collect();
    assert_eq!(found(&[logged(bilevel(), "inner_loss", batches.clone())]), []);
    let alternating = batches.iter().enumerate().map(|(i, loss)| loss + if i % 2 == 0 { 0.4 } else { 0.0 });
    let (evidence, _) = only(&[logged(bilevel(), "inner_loss", alternating)], Sign::OscillatingLoss);
    assert!(evidence.contains("the loss of the inner steps turns at "), "{evidence}");
}

/// A bilevel group and a first-order one, two seeds each; `validation` is the bilevel group's.
fn beside_first_order(settings: &str, validation: &[f64], first_order: f64) -> Vec<Run> {
    let seeds = [(0, 0.0), (1, 0.01)];
    let with = |name: &str, settings: &str, seed: u64, more: f64, values: &[f64]| {
        let values: Vec<(f64, f64)> = values.iter().map(|value| (value + more, 0.5)).collect();
        evaluated(run(&format!("method.name={name} run.seed={seed} {settings}")), &values)
    };
    let bilevel = seeds.map(|(seed, more)| with("bilevel", settings, seed, more, validation));
    let other = seeds.map(|(seed, more)| with("first-order", "", seed, more, &[0.5, first_order]));
    bilevel.into_iter().chain(other).collect()
}

const PLATEAU: [f64; 7] = [0.5, 0.6, 0.7, 0.7, 0.69, 0.7, 0.7];

#[test]
fn a_plateau_below_first_order_training_asks_for_another_penalty_or_more_time() {
    let (evidence, advice) = only(&beside_first_order("method.penalty=1", &PLATEAU, 0.8), Sign::Plateau);
    // Means 0.705 and 0.805; both standard errors are 0.005.
    let words =
        "0.7050 and no new best in the last third of 7 evaluations; 0.8050 of \"first-order\", 14.1 standard errors";
    assert!(evidence.contains(words), "{evidence}");
    assert_eq!(advice, "set λ, method.penalty (now 1), to 1e3 to 1e4");
    let usual = "method.penalty=1e4 method.warm_start=0";
    let (_, advice) = only(&beside_first_order(usual, &PLATEAU, 0.8), Sign::Plateau);
    assert!(advice.starts_with("a longer warm start, method.warm_start (now 0), or more time"), "{advice}");
    let metric = "method.penalty=10 outer.objective=metric";
    assert!(only(&beside_first_order(metric, &PLATEAU, 0.8), Sign::Plateau).1.ends_with("within 1 to 100"));
}

#[test]
fn what_still_rises_or_is_not_below_is_no_plateau() {
    let rising = [0.5, 0.55, 0.6, 0.65, 0.68, 0.7, 0.71];
    assert_eq!(found(&beside_first_order("method.penalty=1", &rising, 0.8)), []);
    assert_eq!(found(&beside_first_order("method.penalty=1", &PLATEAU, 0.705)), []);
    assert_eq!(found(&beside_first_order("method.penalty=1", &PLATEAU, 0.6)), []);
    // What first-order training reaches with a template says nothing of runs without one.
    assert_eq!(found(&beside_first_order("method.penalty=1 data.template=none", &PLATEAU, 0.8)), []);
    // One seed has no standard error.
    let runs = beside_first_order("method.penalty=1", &PLATEAU, 0.8);
    assert_eq!(found(&[runs[0].clone(), runs[2].clone()]), []);
}

#[test]
fn a_slope_near_its_rounding_asks_for_f32_or_a_larger_eps() {
    let mezo = |settings: &str, late: f64, floor: f64| {
        // The first half has large slopes, of both signs.
        let slopes = (0..40).map(|i| if i < 20 { 9.0 } else { late } * if i % 2 == 0 { 1.0 } else { -1.0 });
        let mut run = logged(run(&format!("method.name=mezo {settings}")), "slope", slopes);
        let at = |step: u64, floor: f64| Evaluation {
            step,
            value: None,
            loss: None,
            noise_floor: Some(floor),
            best: false,
            seconds: None,
        };
        run.evaluations = vec![at(0, 100.0), at(40, floor)];
        run
    };
    let (evidence, advice) = only(&[mezo("model.compute=bf16 outer.eps=1e-3", 0.3, 0.2)], Sign::NoisySlope);
    assert!(evidence.ends_with("g over 20 steps is 0.300, its noise floor 0.200"), "{evidence}");
    assert_eq!(advice, "compute in f32 (model.compute = \"f32\"), or a larger outer.eps (now 0.001, perhaps 0.01)");
    let (_, advice) = only(&[mezo("model.compute=f32", 0.3, 0.2)], Sign::NoisySlope);
    assert_eq!(advice, "a larger outer.eps");
    assert_eq!(found(&[mezo("", 0.3, 0.14)]), []);
    let mut metric = mezo("", 0.3, 0.2);
    metric.evaluations.clear();
    assert_eq!(found(&[metric]), []);
}

/// Groups of two seeds without a template and with one, by what validation selects.
fn templates(settings: &str, without: [f64; 2], with: [f64; 2]) -> Vec<Run> {
    let of = |template: &str, values: [f64; 2]| {
        let run = |(seed, value): (usize, f64)| {
            let settings = format!("{settings} data.template={template} run.seed={seed}");
            evaluated(run(&settings), &[(0.4, 0.5), (value, 0.5)])
        };
        values.into_iter().enumerate().map(run).collect::<Vec<_>>()
    };
    [of("none", without), of("prompt", with)].concat()
}

#[test]
fn prompt_tuning_that_needs_the_template_gives_way_to_lora() {
    let prompt = "method.name=bilevel peft.kind=prompt";
    let runs = templates(prompt, [0.60, 0.62], [0.80, 0.82]);
    let (evidence, advice) = only(&runs, Sign::PromptSensitivity);
    let words = "validation accuracy 0.6100 without a template, 0.8100 with \"prompt\", 14.1 standard errors apart";
    assert_eq!(evidence, words);
    assert_eq!(advice, "LoRA instead of prompt tuning (peft.kind = \"lora\")");
    assert_eq!(panel(&runs).groups[panel(&runs).diagnoses[0].group].label, "template none");
    // Seeds that agree have no standard error; then any difference counts.
    only(&templates(prompt, [0.6, 0.6], [0.8, 0.8]), Sign::PromptSensitivity);
}

#[test]
fn a_template_that_seeds_outweigh_or_another_block_is_no_sensitivity() {
    let prompt = "method.name=bilevel peft.kind=prompt";
    assert_eq!(found(&templates(prompt, [0.60, 0.80], [0.70, 0.82])), []);
    assert_eq!(found(&templates(prompt, [0.7, 0.7], [0.7, 0.7])), []);
    assert_eq!(found(&templates("method.name=bilevel peft.kind=lora", [0.60, 0.62], [0.80, 0.82])), []);
    // The key of a block that is not there.
    assert_eq!(found(&templates("method.name=mezo peft.kind=prompt", [0.60, 0.62], [0.80, 0.82])), []);
    let on_block = "method.name=mezo method.on=peft peft.kind=prompt";
    only(&templates(on_block, [0.60, 0.62], [0.80, 0.82]), Sign::PromptSensitivity);
    // More than the template differs.
    let mut runs = templates(prompt, [0.60, 0.62], [0.80, 0.82]);
    runs[0].settings.insert("inner.lr".to_owned(), "1e-3".to_owned());
    runs[1].settings.insert("inner.lr".to_owned(), "1e-3".to_owned());
    assert_eq!(found(&runs), []);
}

#[test]
fn memory_that_ran_out_asks_for_smaller_batches_first() {
    let failed = |settings: &str, reason: &str, log: &str| {
        let run = run(settings);
        let run = Run::failed(Path::new("/none/such"), "run", run.settings, reason, log);
        assert_eq!(run.state, RunState::Failed(reason.to_owned()));
        run
    };
    let bilevel = "method.name=bilevel outer.batch_size=8";
    let killed = "the process ended with signal: 9 (SIGKILL): see logs/run.log";
    let (evidence, advice) = only(&[failed(bilevel, killed, "")], Sign::OutOfMemory);
    assert_eq!(evidence, format!("the run: {killed}"));
    let batch = "halve outer.batch_size (now 8) and double outer.accumulate, which keeps the rows of a step";
    assert_eq!(advice, format!("{batch}; only then a smaller T, method.inner_steps"));
    let keeping = format!("{bilevel} inner.gradient_checkpointing=false");
    let (_, advice) = only(&[failed(&keeping, killed, "")], Sign::OutOfMemory);
    assert!(advice.starts_with("set inner.gradient_checkpointing = true, "), "{advice}");
    assert!(advice.contains(&format!("; then {batch}; only then")), "{advice}");
    let aborted = "the process ended with signal: 6 (SIGABRT): see logs/run.log";
    let log = "step 3\nmemory allocation of 4096 bytes failed\n";
    let (evidence, advice) = only(&[failed("method.name=full inner.batch_size=1", aborted, log)], Sign::OutOfMemory);
    assert_eq!(evidence, "the run: memory allocation of 4096 bytes failed");
    assert!(advice.contains("inner.batch_size is 1 already") && !advice.contains("method.inner_steps"), "{advice}");
    // Another reason, and an earlier try that ended so.
    let other = "the training data has 60 rows, 4000 are asked for";
    assert_eq!(found(&[failed(bilevel, other, &format!("{log}1\n2\n3\n4\nerror: {other}\n"))]), []);
    assert_eq!(found(&[failed(bilevel, aborted, "")]), []);
}

#[test]
fn mezo_that_keeps_its_beginning_is_too_fast_or_too_slow() {
    let mezo = |seed: u64, values: &[(f64, f64)]| {
        evaluated(run(&format!("method.name=mezo outer.lr=3e-6 run.seed={seed}")), values)
    };
    let rising = [(0.6, 0.7), (0.5, 0.8), (0.5, 1.4)];
    let (evidence, advice) = only(&[mezo(0, &rising), mezo(1, &rising)], Sign::NothingKept);
    assert_eq!(
        evidence,
        "all 2 runs kept step 0: the validation loss rises, from 0.700 to 1.40 after 100 steps (+100.0 %)"
    );
    assert_eq!(advice, "the rate is too large: divide outer.lr (now 3e-6) by three: 1e-6");
    let flat = [(0.6, 0.7), (0.59, 0.701), (0.6, 0.702)];
    let (evidence, advice) = only(&[mezo(0, &flat)], Sign::NothingKept);
    assert!(evidence.starts_with("the run kept step 0: the validation loss is flat"), "{evidence}");
    assert_eq!(advice, "more steps, or a larger outer.lr (now 3e-6)");
    let falling = [(0.6, 0.7), (0.59, 0.6), (0.6, 0.5)];
    assert!(only(&[mezo(0, &falling)], Sign::NothingKept).0.contains("falls, but no answer gets better"));
    // One seed that kept a step is enough, as is another method.
    let better = [(0.6, 0.7), (0.7, 0.6), (0.6, 0.7)];
    assert_eq!(found(&[mezo(0, &rising), mezo(1, &better)]), []);
    assert_eq!(found(&[evaluated(run("method.name=first-order"), &rising)]), []);
    let mut unfinished = mezo(0, &rising);
    unfinished.state = RunState::Unfinished;
    assert_eq!(found(&[unfinished]), []);
}

#[test]
fn the_test_examples_have_no_part_in_it() {
    let mut runs = templates("method.name=bilevel peft.kind=prompt", [0.7, 0.71], [0.7, 0.71]);
    for (run, value) in runs.iter_mut().zip([0.1, 0.1, 0.9, 0.9]) {
        run.test = Some(TestScore { name: "θ".to_owned(), value: Some(value), loss: None, examples: None });
    }
    assert_eq!(found(&runs), []);
}
