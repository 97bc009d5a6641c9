//! The data of a task, read and encoded for a model.

use super::{Arguments, Outcome};
use crate::data;
use crate::errors::Error;
use crate::progress::Messenger;
use std::num::NonZeroUsize;
use tokenizers::Tokenizer;
use zofo::eval::{Normalization, Prediction, Scoring};
use zofo::hf::ModelFiles;
use zofo::task::chat::ChatEncoder;
use zofo::task::metric::{exact_match, token_f1};
use zofo::task::{
    DataSplit, Dataset, Encoded, EncodedExample, Encoder, Generation, Kind, ModelLimits, SplitFiles, Task,
    TruncationReport, draw_demonstrations, evaluation_count,
};

/// A task and its rows.
pub struct TaskInput {
    pub task: Task,
    pub input: Input,
    pub truncation: TruncationReport,
}

/// What a model is asked.
pub enum Input {
    /// Which of the candidates?
    Choices {
        examples: Vec<EncodedExample>,
        normalization: Normalization,
        /// Texts of the candidates, if they are to be written.
        texts: Vec<Vec<String>>,
    },
    /// What comes next?
    Prompts {
        prompts: Vec<Vec<u32>>,
        generation: Generation,
        /// The right answers.
        golds: Vec<Vec<String>>,
        /// Lines of the rows in their file, from 1.
        lines: Vec<usize>,
    },
    /// How likely is what the assistant says?
    Conversations(Vec<EncodedExample>),
}

impl TaskInput {
    /// Reads what the arguments ask for.
    pub fn read(
        task: Task,
        model: &ModelFiles,
        tokenizer: &Tokenizer,
        limits: ModelLimits,
        arguments: &Arguments,
        messenger: &Messenger,
    ) -> Result<Self, Error> {
        let locate = |split| data::locate(arguments.data.as_deref(), &task, split, messenger);
        let read = |files: &SplitFiles, split| {
            let dataset = Dataset::read(files, &task, split, arguments.skip_bad_rows)?;
            if dataset.skipped.count > 0 {
                messenger.say(&format!("{}, {split} data: {}", task.name(), dataset.skipped));
            }
            Ok::<_, Error>(dataset)
        };
        let split = arguments.split.into();
        let files = locate(split)?;
        let dataset = read(&files, split)?;
        let count = evaluation_count(dataset.examples.len(), arguments.limit.map(NonZeroUsize::get));
        let rows = &dataset.examples[..count];
        if task.kind() == Kind::Chat {
            let encoder = ChatEncoder::new(&task, &arguments.template, model, tokenizer, limits)?;
            let Encoded { examples, truncation } = encoder.encode(rows)?;
            return Ok(Self { task, input: Input::Conversations(examples), truncation });
        }
        let mut encoder = Encoder::new(&task, &arguments.template, tokenizer, limits)?;
        if arguments.shots > 0 {
            let train_files = locate(DataSplit::Train)?;
            if train_files == files {
                return Err(Error::Usage(format!(
                    "task \"{}\": --shots would draw demonstrations from the rows that are evaluated: give --data a \
                     folder that has training and validation rows",
                    task.name()
                )));
            }
            let train = read(&train_files, DataSplit::Train)?;
            encoder =
                encoder.with_demonstrations(&draw_demonstrations(&train, arguments.shots, arguments.shots_seed)?)?;
        }
        let (input, truncation) = match task.generation() {
            None => {
                let encoded = encoder.encode(rows)?;
                // What stands before a text that begins with an answer.
                let start = model.eos_token_ids().first().copied();
                let normalization = Scoring::from(arguments.score).prepare(&encoder, rows, start)?;
                let texts = match arguments.predictions {
                    Some(_) => rows.iter().map(|row| encoder.answers(row)).collect::<Result<_, _>>()?,
                    None => Vec::new(),
                };
                (Input::Choices { examples: encoded.examples, normalization, texts }, encoded.truncation)
            }
            Some(generation) => {
                let encoded = encoder.encode_prompts(rows, generation.max_new_tokens)?;
                let input = Input::Prompts {
                    prompts: encoded.prompts,
                    generation: generation.clone(),
                    golds: rows.iter().map(|row| row.gold.answers().to_vec()).collect(),
                    lines: rows.iter().map(|row| row.line).collect(),
                };
                (input, encoded.truncation)
            }
        };
        Ok(Self { task, input, truncation })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match &self.input {
            Input::Choices { examples, .. } => examples.len(),
            Input::Prompts { prompts, .. } => prompts.len(),
            Input::Conversations(examples) => examples.len(),
        }
    }

    /// What was predicted for every row.
    pub fn predictions<'a>(&'a self, outcome: &'a Outcome) -> Vec<Prediction<'a>> {
        let task = self.task.name();
        match (&self.input, outcome) {
            (Input::Choices { examples, texts, .. }, Outcome::Choices(evaluation)) => examples
                .iter()
                .zip(&evaluation.examples)
                .zip(texts)
                .map(|((example, scored), texts)| Prediction::Choice {
                    task,
                    line: example.line,
                    gold: &example.golds,
                    prediction: scored.prediction,
                    scores: &scored.scores,
                    texts,
                })
                .collect(),
            (Input::Prompts { golds, lines, .. }, Outcome::Texts(answers)) => answers
                .iter()
                .zip(golds)
                .zip(lines)
                .map(|((answer, gold), &line)| {
                    let golds = || gold.iter().map(String::as_str);
                    Prediction::Text {
                        task,
                        line,
                        gold,
                        prediction: &answer.text,
                        em: exact_match(&answer.text, golds()),
                        f1: token_f1(&answer.text, golds()),
                    }
                })
                .collect(),
            (Input::Conversations(examples), Outcome::Conversations(evaluation)) => examples
                .iter()
                .zip(&evaluation.examples)
                .map(|(example, scored)| {
                    let (nll, tokens) = scored.gold_nll();
                    Prediction::Conversation { task, line: example.line, tokens, loss: nll / tokens as f64 }
                })
                .collect(),
            // An outcome is always of its input's kind.
            _ => Vec::new(),
        }
    }
}

impl Input {
    /// The right answers of every row, where answers are written.
    pub fn golds(&self) -> impl Iterator<Item = &[String]> {
        let golds = match self {
            Self::Choices { .. } | Self::Conversations(_) => &[][..],
            Self::Prompts { golds, .. } => golds,
        };
        golds.iter().map(Vec::as_slice)
    }

    /// Tokens of all prompts, where answers are written.
    pub fn prompt_tokens(&self) -> usize {
        match self {
            Self::Choices { .. } | Self::Conversations(_) => 0,
            Self::Prompts { prompts, .. } => prompts.iter().map(Vec::len).sum(),
        }
    }
}
