//! How good weights are on examples that they are not trained on.

use super::error::{Place, RunError};
use super::progress::{Observer, Score};
use crate::eval::{
    Answer, AnswerEnd, Author, Evaluation, GenerationError, Normalization, Sampling, count_classes, evaluate_under,
    generate_answers, try_evaluate,
};
use crate::model::Backbone;
use crate::peft::Adapter;
use crate::task::metric::{exact_match, macro_f1, token_f1};
use crate::task::{EncodedExample, Example, Generation, Metric, Task};
use crate::train::finite;
use crate::train::objective::{Evaluated, Measure};
use crate::zo::Perturbation;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokenizers::Tokenizer;

/// Examples as they are judged.
#[derive(Debug)]
pub struct EvaluationSet {
    /// With their right answers, for the loss and for choosing among candidates.
    pub examples: Arc<[EncodedExample]>,
    /// Where answers are written: as many questions. Else none.
    questions: Vec<Question>,
}

/// What a model is to write an answer to.
#[derive(Debug)]
struct Question {
    /// Its tokens.
    prompt: Vec<u32>,
    /// The right answers.
    answers: Vec<String>,
}

impl EvaluationSet {
    /// Examples whose answers are chosen.
    pub(super) fn choices(examples: Arc<[EncodedExample]>) -> Self {
        Self { examples, questions: Vec::new() }
    }

    /// Examples whose answers are written: of every row its encoded form and its prompt alone.
    pub(super) fn questions<'a>(
        examples: Arc<[EncodedExample]>,
        prompts: Vec<Vec<u32>>,
        rows: impl IntoIterator<Item = &'a Example>,
    ) -> Self {
        let question = |(prompt, row): (_, &Example)| Question { prompt, answers: row.gold.answers().to_vec() };
        Self { examples, questions: prompts.into_iter().zip(rows).map(question).collect() }
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }
}

/// The measure of a task.
#[derive(Debug)]
pub(super) struct Judge {
    metric: Metric,
    kind: Kind,
}

/// What [`Metric`] needs to be known.
#[derive(Debug)]
enum Kind {
    Accuracy,
    /// Of so many classes.
    MacroF1(usize),
    Perplexity,
    /// Answers are written, and each is worth what `value` says.
    Answers {
        writing: Box<Writing>,
        value: fn(&str, &[String]) -> f64,
    },
}

/// How answers are written.
#[derive(Debug)]
struct Writing {
    tokenizer: Tokenizer,
    end_of_text: Vec<u32>,
    generation: Generation,
}

/// What is judged, for progress and messages.
pub(super) struct Judged<'a> {
    /// For progress.
    pub(super) what: &'a str,
    /// The name of the loss.
    pub(super) loss: &'static str,
    /// Where in the run.
    pub(super) place: Place,
    /// The run's folder.
    pub(super) output: &'a Path,
    /// Becomes true when the user does not want to wait any longer.
    pub(super) interrupted: &'a AtomicBool,
}

impl Judge {
    /// The measure that `task` names, where a model writes answers until it gives one of the tokens `end_of_text`.
    pub(super) fn new(task: &Task, tokenizer: &Tokenizer, end_of_text: &[u32]) -> Self {
        let metric = task.metric();
        let kind = match task.generation() {
            Some(generation) => Kind::Answers {
                writing: Box::new(Writing {
                    tokenizer: tokenizer.clone(),
                    end_of_text: end_of_text.to_vec(),
                    generation: generation.clone(),
                }),
                value: if metric == Metric::ExactMatch { exact_match_of } else { token_f1_of },
            },
            None if metric == Metric::MacroF1 => Kind::MacroF1(task.classes().len()),
            None if metric == Metric::Perplexity => Kind::Perplexity,
            None => Kind::Accuracy,
        };
        Self { metric, kind }
    }

    /// Scores a backbone with an adapter. Answers are written greedily. `None` if it was interrupted.
    ///
    /// # Errors
    ///
    /// [`RunError::Diverged`] if the loss is not finite; [`RunError::Answers`] if answers cannot be written.
    pub(super) fn score(
        &self,
        backbone: &Backbone,
        adapter: Option<&Adapter>,
        set: &EvaluationSet,
        judged: Judged,
        observer: &mut dyn Observer,
    ) -> Result<Option<Score>, RunError> {
        let Judged { what, loss, place, output, interrupted } = judged;
        let count = set.len();
        let stop = || interrupted.load(Ordering::SeqCst);
        let evaluation = try_evaluate(backbone, adapter, &set.examples, &Normalization::Mean, |done| {
            observer.evaluating(what, done, count);
            if stop() { Err(()) } else { Ok(()) }
        });
        let Ok(evaluation) = evaluation else { return Ok(None) };
        let loss = finite(loss, evaluation.loss()).map_err(|source| RunError::Diverged {
            place,
            output: output.to_owned(),
            source,
            results: None,
        })?;
        let value = match &self.kind {
            Kind::Answers { writing, value } => {
                let what = format!("{what}, answers");
                let progress = |done| {
                    observer.evaluating(&what, done, count);
                    if stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                let questions: Vec<&Question> = set.questions.iter().collect();
                match writing.answers(Author::new(backbone, adapter), &questions, progress) {
                    Ok(answers) => mean_value(&answers, &questions, *value),
                    Err(GenerationError::Stopped) => return Ok(None),
                    Err(source) => return Err(RunError::Answers { place, source }),
                }
            }
            Kind::Perplexity => loss.exp(),
            Kind::Accuracy | Kind::MacroF1(_) => self.of_choices(&evaluation),
        };
        Ok(Some(Score { metric: self.metric, value, loss }))
    }

    /// The measure of chosen answers.
    fn of_choices(&self, evaluation: &Evaluation) -> f64 {
        match self.kind {
            Kind::MacroF1(classes) => macro_f1(&count_classes(evaluation, classes)),
            _ => evaluation.accuracy(),
        }
    }
}

/// 1 − a task's metric over the examples of a batch: what zeroth-order estimates can descend in place of the loss.
#[derive(Debug)]
pub(super) struct MetricMeasure {
    pub(super) judge: Arc<Judge>,
    /// The examples that batches are drawn from.
    pub(super) set: EvaluationSet,
}

impl Measure for MetricMeasure {
    fn of(&self, view: &Perturbation, backbone: &Backbone, adapter: Option<&Adapter>, drawn: &[usize]) -> Evaluated {
        match &self.judge.kind {
            Kind::Answers { writing, value } => {
                let questions: Vec<&Question> = drawn.iter().map(|&example| &self.set.questions[example]).collect();
                let mut all = Evaluated::default();
                // Each side goes its own way from the first token in which they differ.
                for perturbation in &view.by_sign() {
                    let author = Author { backbone, adapter, perturbation };
                    let answers = writing.answers(author, &questions, |_| ControlFlow::Continue(()));
                    // Logits that are no numbers: the step is skipped.
                    let Ok(answers) = answers else {
                        all.values.push(f64::NAN);
                        continue;
                    };
                    all.values.push(1.0 - mean_value(&answers, &questions, *value));
                    all.tokens += questions.iter().map(|question| question.prompt.len()).sum::<usize>()
                        + answers.iter().map(|answer| answer.tokens).sum::<usize>();
                }
                all
            }
            _ => {
                let examples: Vec<&EncodedExample> = drawn.iter().map(|&example| &self.set.examples[example]).collect();
                let signs = evaluate_under(view, backbone, adapter, &examples);
                Evaluated {
                    tokens: signs.iter().map(|evaluation| evaluation.tokens).sum(),
                    values: signs.iter().map(|evaluation| 1.0 - self.judge.of_choices(evaluation)).collect(),
                }
            }
        }
    }
}

impl Writing {
    fn answers(
        &self,
        author: Author,
        questions: &[&Question],
        progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<Answer>, GenerationError> {
        let prompts: Vec<Vec<u32>> = questions.iter().map(|question| question.prompt.clone()).collect();
        let Generation { stop, max_new_tokens } = &self.generation;
        let end = AnswerEnd { tokens: &self.end_of_text, texts: stop, max_new_tokens: *max_new_tokens };
        generate_answers(author, &self.tokenizer, &prompts, end, Sampling::Greedy, progress)
    }
}

/// The mean of what answers are worth.
fn mean_value(answers: &[Answer], questions: &[&Question], value: fn(&str, &[String]) -> f64) -> f64 {
    let values = answers.iter().zip(questions).map(|(answer, question)| value(&answer.text, &question.answers));
    values.sum::<f64>() / questions.len() as f64
}

fn exact_match_of(text: &str, answers: &[String]) -> f64 {
    exact_match(text, answers.iter().map(String::as_str))
}

fn token_f1_of(text: &str, answers: &[String]) -> f64 {
    token_f1(text, answers.iter().map(String::as_str))
}
