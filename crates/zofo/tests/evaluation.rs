//! Evaluation of a small model on real tasks: scores and searches against transformers' (`golden/scores.py`,
//! `golden/beams.py`), and what must not change a result: who else is in the batch, what was computed once, which adapter
//! there is.

use serde_json::Value;
use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use tokenizers::Tokenizer;
use zofo::eval::{
    AnswerEnd, Author, Evaluation, Generation, Normalization, Sampling, Scoring, beam_search, evaluate, evaluate_by,
    evaluate_under, generate, generate_answers,
};
use zofo::hf::{ModelFiles, WeightDtype};
use zofo::model::Backbone;
use zofo::peft::Adapter;
use zofo::task::{
    DataSplit, Dataset, EncodedCandidate, EncodedExample, Encoder, ModelLimits, Task, TemplateName, draw_demonstrations,
};
use zofo::zo::{BackboneDirection, Perturbation};

/// Of a log-probability of a token. The reference computes in float64: over two hundred rows, f32 (whose steps at −8 are
/// 5e-7) is off by up to 1.1e-5.
const TOLERANCE: f64 = 2e-5;

/// What rounding does to a log-probability when sums are taken in another order.
const ROUNDING: f32 = 1e-5;

/// What never stops an evaluation.
fn go_on(_: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

struct Model {
    backbone: Backbone,
    tokenizer: Tokenizer,
    limits: ModelLimits,
    end: u32,
    folder: PathBuf,
}

impl Model {
    fn open() -> Self {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny-gqa-tied"));
        let files = ModelFiles::open(&folder.join("model")).unwrap();
        Self {
            backbone: Backbone::load(&files, WeightDtype::F32, &burn::tensor::Device::flex()).unwrap(),
            tokenizer: files.tokenizer().unwrap(),
            limits: files.config().limits(),
            end: files.eos_token_ids()[0],
            folder,
        }
    }

    /// None, and one of each kind.
    fn adapters(&self) -> Vec<Option<Adapter>> {
        let read = |name: &str| {
            let folder = self.folder.join(name).join("adapter");
            Adapter::read(&folder, self.backbone.config(), &burn::tensor::Device::flex()).unwrap()
        };
        let mut adapters = vec![None];
        adapters.extend(["peft-lora", "peft-prefix", "peft-prompt"].map(|name| Some(read(name))));
        adapters
    }
}

/// The rows of a task, by way of a file.
fn dataset(task: &Task, rows: &[&Value]) -> Dataset {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("validation.jsonl");
    fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    Dataset::open(folder.path(), task, DataSplit::Validation).unwrap()
}

fn reviews(count: usize) -> Vec<Value> {
    let words = ["dull", "warm", "odd and long, too long", "fine", "thin"];
    let row = |i: usize| serde_json::json!({ "sentence": format!("a {} film", words[i % 5]), "label": i % 2 });
    (0..count).map(row).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn golden_scores_of_real_tasks_are_those_of_transformers() {
    let model = Model::open();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/scores/scores.json");
    let cases: Vec<Value> = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut tasks: Vec<&str> = cases.iter().map(|case| case["task"].as_str().unwrap()).collect();
    tasks.dedup();
    assert_eq!((tasks.len(), cases.len()), (10, 200));
    for name in tasks {
        let cases: Vec<&Value> = cases.iter().filter(|case| case["task"] == name).collect();
        let task = Task::load(name).unwrap();
        let data = dataset(&task, &cases.iter().map(|case| &case["row"]).collect::<Vec<_>>());
        let encoder = Encoder::new(&task, &TemplateName::PROMPT, &model.tokenizer, model.limits).unwrap();
        let examples = encoder.encode(&data.examples).unwrap().examples;
        let by = |scoring: Scoring| {
            let normalization = scoring.prepare(&encoder, &data.examples, Some(model.end)).unwrap();
            evaluate_by(&model.backbone, None, &examples, &normalization, |_| ())
        };
        let [mean, sum, bytes, sfc] = [Scoring::Mean, Scoring::Sum, Scoring::Bytes, Scoring::Sfc].map(by);
        for (row, case) in cases.iter().enumerate() {
            let place = format!("{name}:{}", case["line"]);
            let (lengths, null) = (numbers(&case["bytes"]), numbers(&case["null"]));
            let expected: Vec<Vec<f64>> = case["scores"].as_array().unwrap().iter().map(numbers).collect();
            assert_eq!(mean.examples[row].scores.len(), expected.len(), "{place}");
            for (candidate, expected) in expected.iter().enumerate() {
                let tokens = &mean.examples[row].token_logprobs[candidate];
                assert_eq!(tokens.len(), expected.len(), "{place}, candidate {candidate}");
                for (found, expected) in tokens.iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < TOLERANCE, "{place}: {found}, expected {expected}");
                }
                let total: f64 = expected.iter().sum();
                let count = expected.len() as f64;
                for (of, evaluation, expected, tolerance) in [
                    ("mean", &mean, total / count, TOLERANCE),
                    ("sum", &sum, total, count * TOLERANCE),
                    ("bytes", &bytes, total / lengths[candidate], TOLERANCE),
                    ("sfc", &sfc, total - null[candidate], 2.0 * count * TOLERANCE),
                ] {
                    let found = evaluation.examples[row].scores[candidate];
                    assert!((found - expected).abs() < tolerance, "{place}, {of}: {found}, expected {expected}");
                }
            }
        }
    }
}

fn assert_same_logprobs(together: &Evaluation, alone: &Evaluation, row: usize, place: &str) {
    let (one, other) = (&together.examples[row].token_logprobs, &alone.examples[0].token_logprobs);
    assert_eq!(one.len(), other.len(), "{place}");
    for (one, other) in one.concat().iter().zip(other.concat()) {
        assert!((one - other).abs() < ROUNDING, "{place}, row {row}: {one}, alone {other}");
    }
}

#[test]
fn demonstrations_are_computed_once_and_change_no_score() {
    let model = Model::open();
    let task = Task::load("sst2").unwrap();
    let rows = reviews(30);
    let data = dataset(&task, &rows.iter().collect::<Vec<_>>());
    let shots = draw_demonstrations(&data, 2, 1).unwrap();
    // Adapters take some of the context for virtual tokens.
    let encoder = Encoder::new(&task, &TemplateName::PROMPT, &model.tokenizer, model.limits.after(10)).unwrap();
    let bare = encoder.encode(&data.examples).unwrap().examples;
    let encoder = encoder.with_demonstrations(&shots).unwrap();
    let encoded = encoder.encode(&data.examples).unwrap();
    assert_eq!(encoded.truncation.truncated, 0, "the test needs short texts");
    let examples = encoded.examples;
    let extra = examples[0].candidates[0].ids.len() - bare[0].candidates[0].ids.len();
    for (index, adapter) in model.adapters().iter().enumerate() {
        let place = format!("adapter {index}");
        let adapter = adapter.as_ref();
        let together = evaluate(&model.backbone, adapter, &examples, |_| ());
        let without = evaluate(&model.backbone, adapter, &bare, |_| ());
        for row in 0..examples.len() {
            let alone = evaluate(&model.backbone, adapter, &examples[row..=row], |_| ());
            assert_same_logprobs(&together, &alone, row, &place);
        }
        assert_ne!(together.loss(), without.loss());
        // The beginning of the reviews themselves may be shared too.
        assert!(together.tokens <= without.tokens + extra, "{} {} {extra}", together.tokens, without.tokens);
    }
    // Calibration with demonstrations: the null prompt comes after them.
    let null = Scoring::IclSfc.prepare(&encoder, &data.examples, None).unwrap();
    let Normalization::Null(nulls) = &null else { panic!("no null prompts") };
    let (null_alone, score) = (
        evaluate_by(&model.backbone, None, &nulls[..1], &Normalization::Sum, |_| ()),
        evaluate_by(&model.backbone, None, &examples, &null, |_| ()),
    );
    let sum = evaluate_by(&model.backbone, None, &examples, &Normalization::Sum, |_| ());
    let expected = sum.examples[0].scores[1] - null_alone.examples[0].scores[1];
    assert!((score.examples[0].scores[1] - expected).abs() < 1e-4);
    let text = model.tokenizer.decode(&nulls[0].candidates[1].ids, false).unwrap();
    assert!(text.ends_with("\n\nIt was great") && text.starts_with("a "), "{text}");
}

#[test]
fn what_is_cut_is_counted_in_demonstrations() {
    let model = Model::open();
    let task = Task::load("sst2").unwrap();
    let rows = reviews(6);
    let data = dataset(&task, &rows.iter().collect::<Vec<_>>());
    let shots = draw_demonstrations(&data, 6, 1).unwrap();
    let encoder = |context| {
        let limits = ModelLimits { context, ..model.limits };
        let encoder = Encoder::new(&task, &TemplateName::PROMPT, &model.tokenizer, limits).unwrap();
        encoder.with_demonstrations(&shots).unwrap().encode(&data.examples[..1]).unwrap()
    };
    let whole = encoder(10_000);
    let longest = whole.truncation.longest;
    assert_eq!((whole.truncation.truncated, whole.truncation.demonstrations), (0, 0));
    // One token less is one demonstration less; what is left is the right end.
    let cut = encoder(longest - 1);
    assert_eq!((cut.truncation.truncated, cut.truncation.demonstrations), (1, 1));
    assert_eq!(cut.examples[0].candidates[1].ids, whole.examples[0].candidates[1].ids[1..]);
    assert!(cut.truncation.to_string().contains("with it 1 demonstrations in whole or in part"), "{}", cut.truncation);
    assert_eq!(encoder(30).truncation.demonstrations, 6);
}

/// One prompt at a time, with a cache of its own.
fn one_by_one(model: &Model, adapter: Option<&Adapter>, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let request = Generation { prompt, max_new_tokens: tokens, stop: &[model.end], sampling: Sampling::Greedy };
    generate(&model.backbone, adapter, &request, |_| true).unwrap()
}

#[test]
fn answers_are_those_of_one_prompt_at_a_time() {
    let model = Model::open();
    let long = "The keeper of the lighthouse ";
    let texts = ["wrote", "wrote a letter to the", "is", "in the harbour, where the boats are,", "x"];
    let prompts = |before: &str| -> Vec<Vec<u32>> {
        let encode = |text| model.tokenizer.encode(format!("{before}{text}"), true).unwrap().get_ids().to_vec();
        texts.iter().map(encode).collect()
    };
    for (index, adapter) in model.adapters().iter().enumerate() {
        let adapter = adapter.as_ref();
        for prompts in [prompts(""), prompts(long), prompts(long)[..1].to_vec()] {
            let end = AnswerEnd { tokens: &[model.end], texts: &[], max_new_tokens: 12 };
            let mut last = 0;
            let answers = generate_answers(
                Author::new(&model.backbone, adapter),
                &model.tokenizer,
                &prompts,
                end,
                Sampling::Greedy,
                |done| {
                    last = done;
                    go_on(done)
                },
            )
            .unwrap();
            assert_eq!((answers.len(), last), (prompts.len(), prompts.len()));
            for (prompt, answer) in prompts.iter().zip(&answers) {
                let new = one_by_one(&model, adapter, prompt, 12);
                let expected = model.tokenizer.decode(&new, true).unwrap();
                assert_eq!(answer.text, expected.trim(), "adapter {index}, {} prompts", prompts.len());
            }
        }
    }
}

#[test]
fn an_answer_ends_before_a_text_that_stops_it() {
    let model = Model::open();
    let prompt = model.tokenizer.encode("The keeper", true).unwrap().get_ids().to_vec();
    let new = one_by_one(&model, None, &prompt, 10);
    let text = model.tokenizer.decode(&new, true).unwrap();
    let middle = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
    let stop = text[middle..].chars().take(2).collect::<String>();
    let expected = &text[..text.find(&stop).unwrap()];
    let stops = ["never to be seen".to_owned(), stop];
    let end = AnswerEnd { tokens: &[], texts: &stops, max_new_tokens: 10 };
    let answer = generate_answers(
        Author::new(&model.backbone, None),
        &model.tokenizer,
        std::slice::from_ref(&prompt),
        end,
        Sampling::Greedy,
        go_on,
    )
    .unwrap();
    assert_eq!(answer[0].text, expected.trim());
    assert!(answer[0].tokens < 10);
    // A token that ends an answer is not part of it.
    let end = AnswerEnd { tokens: &new[..1], texts: &[], max_new_tokens: 10 };
    let answer =
        generate_answers(Author::new(&model.backbone, None), &model.tokenizer, &[prompt], end, Sampling::Greedy, go_on)
            .unwrap();
    assert_eq!((answer[0].text.as_str(), answer[0].tokens), ("", 1));
}

#[test]
fn scores_are_made_of_the_tokens_log_probabilities() {
    let model = Model::open();
    let candidate = |answer: &[u32]| EncodedCandidate::new([&[5, 6, 7], answer].concat(), answer.len());
    let example =
        |answers: [&[u32]; 2]| EncodedExample { candidates: answers.map(candidate).to_vec(), golds: vec![0], line: 1 };
    let examples = [example([&[8], &[9, 10]]), example([&[11, 12, 13], &[14]])];
    let nulls = vec![example([&[20], &[21, 22]]); 2];
    let null = evaluate(&model.backbone, None, &nulls, |_| ());
    let bytes = Normalization::Bytes(vec![vec![2, 4], vec![8, 16]]);
    let sum = |tokens: &[f32]| tokens.iter().map(|&x| f64::from(x)).sum::<f64>();
    for normalization in [Normalization::Mean, Normalization::Sum, bytes, Normalization::Null(nulls)] {
        let evaluation = evaluate_by(&model.backbone, None, &examples, &normalization, |_| ());
        for (row, scored) in evaluation.examples.iter().enumerate() {
            for (place, tokens) in scored.token_logprobs.iter().enumerate() {
                let expected = match &normalization {
                    Normalization::Mean => sum(tokens) / tokens.len() as f64,
                    Normalization::Sum => sum(tokens),
                    Normalization::Bytes(bytes) => sum(tokens) / bytes[row][place] as f64,
                    Normalization::Null(_) => sum(tokens) - sum(&null.examples[row].token_logprobs[place]),
                };
                assert!((scored.scores[place] - expected).abs() < 1e-5, "{normalization:?}");
            }
        }
    }
}

/// The answers of `golden/beams.py`, and their scores.
#[test]
fn golden_beams_are_those_of_transformers() {
    let model = Model::open();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/beams/expected.json");
    let expected: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let max_new_tokens = expected["max_new_tokens"].as_u64().unwrap() as usize;
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let cases = expected["cases"].as_array().unwrap();
    for case in cases {
        let ends = ids(&case["ends"]);
        let end = AnswerEnd { tokens: &ends, texts: &[], max_new_tokens };
        let beams = NonZeroUsize::new(case["beams"].as_u64().unwrap() as usize).unwrap();
        // The same prompt twice, with another between: what a pass holds besides does not matter.
        let (prompt, other) = (ids(&case["prompt"]), vec![5, 6, 7, 8]);
        let prompts = [prompt.clone(), other, prompt];
        let found =
            beam_search(Author::new(&model.backbone, None), &model.tokenizer, &prompts, end, beams, go_on).unwrap();
        for place in [0, 2] {
            assert_eq!(found[place].tokens, ids(&case["tokens"]), "{case}");
            let (score, wanted) = (found[place].score, case["score"].as_f64().unwrap());
            assert!((score - wanted).abs() < 1e-4, "{score} for {wanted}: {case}");
        }
    }
}

#[test]
fn one_beam_is_greedy_and_drawn_answers_are_those_of_one_prompt_at_a_time() {
    let model = Model::open();
    let prompts: Vec<Vec<u32>> = vec![vec![5, 6, 7], vec![9, 10, 11, 12], vec![20]];
    let end = AnswerEnd { tokens: &[model.end], texts: &[], max_new_tokens: 9 };
    let answers = |sampling| {
        generate_answers(Author::new(&model.backbone, None), &model.tokenizer, &prompts, end, sampling, go_on).unwrap()
    };
    let greedy = answers(Sampling::Greedy);
    let one = NonZeroUsize::new(1).unwrap();
    let found = beam_search(Author::new(&model.backbone, None), &model.tokenizer, &prompts, end, one, go_on).unwrap();
    for (answer, found) in greedy.iter().zip(&found) {
        assert_eq!((&answer.text, answer.tokens), (&found.text, found.tokens.len()));
    }
    let drawn = |seed| Sampling::Nucleus { temperature: 1.5, top_p: 0.9, seed };
    assert_eq!(answers(drawn(1)), answers(drawn(1)));
    assert_ne!(answers(drawn(1)), answers(drawn(2)));
    assert_ne!(answers(drawn(1)), greedy);
    // The first prompt's are those of `generate`.
    let request = Generation { prompt: &prompts[0], max_new_tokens: 9, stop: &[model.end], sampling: drawn(1) };
    let new = generate(&model.backbone, None, &request, |_| true).unwrap();
    assert_eq!(answers(drawn(1))[0].text, model.tokenizer.decode(&new, true).unwrap().trim());
}

/// Both sides of a perturbation, as a view of the weights and as weights.
#[test]
fn a_perturbation_answers_as_moved_weights_do() {
    let model = Model::open();
    let (direction, eps) = (BackboneDirection::Seeded(5), 0.05);
    let pair = Perturbation::Pair { direction: direction.clone(), eps };
    let moved = [eps, -eps].map(|scale| {
        let mut moved = Model::open();
        moved.backbone.descend(&direction, -scale);
        moved
    });
    let prompts: Vec<Vec<u32>> = ["The keeper", "The keeper of the", "A tide table"]
        .map(|text| model.tokenizer.encode(text, true).unwrap().get_ids().to_vec())
        .to_vec();
    let end = AnswerEnd { tokens: &[model.end], texts: &[], max_new_tokens: 12 };
    let answers =
        |author: Author| generate_answers(author, &model.tokenizer, &prompts, end, Sampling::Greedy, go_on).unwrap();
    let untouched = answers(Author::new(&model.backbone, None));
    for (perturbation, moved) in pair.by_sign().iter().zip(&moved) {
        let written = answers(Author { backbone: &model.backbone, adapter: None, perturbation });
        assert_eq!(written, answers(Author::new(&moved.backbone, None)));
        assert_ne!(written, untouched);
    }

    let task = Task::load("sst2").unwrap();
    let rows = reviews(6);
    let data = dataset(&task, &rows.iter().collect::<Vec<_>>());
    let encoder = Encoder::new(&task, &TemplateName::PROMPT, &model.tokenizer, model.limits).unwrap();
    let examples = encoder.encode(&data.examples).unwrap().examples;
    let few: Vec<&EncodedExample> = examples.iter().collect();
    let signs = evaluate_under(&pair, &model.backbone, None, &few);
    assert_eq!(signs.len(), 2);
    for (sign, moved) in signs.iter().zip(&moved) {
        let expected = evaluate(&moved.backbone, None, &examples, |_| ());
        for (found, expected) in sign.examples.iter().zip(&expected.examples) {
            let pairs = found.token_logprobs.concat().into_iter().zip(expected.token_logprobs.concat());
            assert!(pairs.clone().all(|(found, expected)| (found - expected).abs() < ROUNDING), "{pairs:?}");
        }
    }
    assert!((signs[0].loss() - signs[1].loss()).abs() > 1e-3);
}
