//! How good weights are on examples that they are not trained on.

use super::error::{Place, RunError};
use super::progress::{Observer, Score};
use crate::eval::{AnswerEnd, GenerationError, Sampling, count_classes, evaluate, generate_answers};
use crate::model::Backbone;
use crate::peft::Adapter;
use crate::task::metric::{exact_match, macro_f1, token_f1};
use crate::task::{EncodedExample, Example, Generation, Metric, Task};
use crate::train::finite;
use std::path::Path;
use tokenizers::Tokenizer;

/// Examples that never train.
pub struct HeldOut {
    /// With their right answers, for the loss and for choosing among candidates.
    pub examples: Vec<EncodedExample>,
    /// Where answers are written: as many questions. Else none.
    questions: Vec<Question>,
}

/// What a model is to write an answer to.
struct Question {
    /// Its tokens.
    prompt: Vec<u32>,
    /// The right answers.
    answers: Vec<String>,
}

impl HeldOut {
    /// Examples whose answers are chosen.
    pub(super) fn choices(examples: Vec<EncodedExample>) -> Self {
        Self { examples, questions: Vec::new() }
    }

    /// Examples whose answers are written: of every row its encoded form and its prompt alone.
    pub(super) fn questions<'a>(
        examples: Vec<EncodedExample>,
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
pub(super) struct Judge {
    metric: Metric,
    measure: Measure,
}

/// What [`Metric`] needs to be known.
enum Measure {
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
}

impl Judge {
    /// The measure that `task` names, where a model writes answers until it gives one of the tokens `end_of_text`.
    pub(super) fn new(task: &Task, tokenizer: &Tokenizer, end_of_text: &[u32]) -> Self {
        let metric = task.metric();
        let measure = match task.generation() {
            Some(generation) => Measure::Answers {
                writing: Box::new(Writing {
                    tokenizer: tokenizer.clone(),
                    end_of_text: end_of_text.to_vec(),
                    generation: generation.clone(),
                }),
                value: if metric == Metric::ExactMatch { exact_match_of } else { token_f1_of },
            },
            None if metric == Metric::MacroF1 => Measure::MacroF1(task.classes().len()),
            None if metric == Metric::Perplexity => Measure::Perplexity,
            None => Measure::Accuracy,
        };
        Self { metric, measure }
    }

    /// Scores a backbone with an adapter. Answers are written greedily.
    ///
    /// # Errors
    ///
    /// [`RunError::Diverged`] if the loss is not finite; [`RunError::Answers`] if answers cannot be written.
    pub(super) fn score(
        &self,
        backbone: &Backbone,
        adapter: Option<&Adapter>,
        held_out: &HeldOut,
        judged: Judged,
        observer: &mut dyn Observer,
    ) -> Result<Score, RunError> {
        let Judged { what, loss, place, output } = judged;
        let count = held_out.len();
        let evaluation = evaluate(backbone, adapter, &held_out.examples, |done| observer.evaluating(what, done, count));
        let loss = finite(loss, evaluation.loss()).map_err(|source| RunError::Diverged {
            place,
            output: output.to_owned(),
            source,
            results: None,
        })?;
        let value = match &self.measure {
            Measure::Accuracy => evaluation.accuracy(),
            Measure::MacroF1(classes) => macro_f1(&count_classes(&evaluation, *classes)),
            Measure::Perplexity => loss.exp(),
            Measure::Answers { writing, value } => {
                let what = format!("{what}, answers");
                let progress = |done| observer.evaluating(&what, done, count);
                let texts = writing.answers(backbone, adapter, &held_out.questions, progress);
                let texts = texts.map_err(|source| RunError::Answers { place, source })?;
                let values =
                    texts.iter().zip(&held_out.questions).map(|(text, question)| value(text, &question.answers));
                values.sum::<f64>() / count as f64
            }
        };
        Ok(Score { metric: self.metric, value, loss })
    }
}

impl Writing {
    fn answers(
        &self,
        backbone: &Backbone,
        adapter: Option<&Adapter>,
        questions: &[Question],
        progress: impl FnMut(usize),
    ) -> Result<Vec<String>, GenerationError> {
        let prompts: Vec<Vec<u32>> = questions.iter().map(|question| question.prompt.clone()).collect();
        let Generation { stop, max_new_tokens } = &self.generation;
        let end = AnswerEnd { tokens: &self.end_of_text, texts: stop, max_new_tokens: *max_new_tokens };
        let answers = generate_answers(backbone, adapter, &self.tokenizer, &prompts, end, Sampling::Greedy, progress)?;
        Ok(answers.into_iter().map(|answer| answer.text).collect())
    }
}

fn exact_match_of(text: &str, answers: &[String]) -> f64 {
    exact_match(text, answers.iter().map(String::as_str))
}

fn token_f1_of(text: &str, answers: &[String]) -> f64 {
    token_f1(text, answers.iter().map(String::as_str))
}
