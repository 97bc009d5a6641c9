//! In-context demonstrations: solved examples that stand before every prompt.

use super::dataset::{Dataset, Example};
use super::error::TaskError;
use super::shuffle::{SplitMix64, permutation};
use super::template::Template;
use std::path::PathBuf;

/// What stands between two demonstrations, and before the prompt.
const SEPARATOR: &str = "\n\n";

/// Solved examples, joined, with a separator behind the last one; or nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Demonstrations {
    text: String,
    /// Where each begins, in bytes.
    starts: Vec<usize>,
}

impl Demonstrations {
    /// Each of `examples` with its right answer.
    ///
    /// # Errors
    /// As of [`Template::render`].
    pub(super) fn new(template: &Template, examples: &[Example]) -> Result<Self, TaskError> {
        let mut demonstrations = Self::default();
        for example in examples {
            demonstrations.starts.push(demonstrations.text.len());
            demonstrations.text += &template.demonstration(example)?;
            demonstrations.text += SEPARATOR;
        }
        Ok(demonstrations)
    }

    /// What stands before a prompt.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// How many begin before a byte of the text.
    pub(super) fn beginning_before(&self, byte: usize) -> usize {
        self.starts.partition_point(|&start| start < byte)
    }
}

/// Draws `shots` examples, each at most once, in an order that depends on `seed` and the number of rows alone. More shots
/// only add to the fewer of the same seed.
///
/// # Errors
/// [`TaskError::TooFewDemonstrations`].
pub fn draw_demonstrations(dataset: &Dataset, shots: usize, seed: u64) -> Result<Vec<Example>, TaskError> {
    let rows = dataset.examples.len();
    if shots > rows {
        let path = dataset.examples.first().map_or_else(PathBuf::new, |example| example.source.to_path_buf());
        return Err(TaskError::TooFewDemonstrations { path, rows, shots });
    }
    let order = permutation(rows, &mut SplitMix64::keyed(seed, "demonstrations", 0));
    Ok(order[..shots].iter().map(|&row| dataset.examples[row].clone()).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::task::{Gold, SkippedRows, Task, TemplateName};

    fn example(line: usize) -> Example {
        Example {
            source: Path::new("train.jsonl").into(),
            line,
            fields: [("sentence".to_owned(), json!(format!(" film {line} ")))].into(),
            gold: Gold::Candidates(vec![line % 2]),
        }
    }

    #[test]
    fn solved_examples_are_joined_before_the_prompt() {
        let task = Task::load("sst2").unwrap();
        let template = task.template(&TemplateName::PROMPT).unwrap();
        let demonstrations = Demonstrations::new(template, &[example(1), example(2)]).unwrap();
        assert_eq!(demonstrations.text(), "film 1 It was great\n\nfilm 2 It was terrible\n\n");
        assert_eq!([0, 1, 21, 22, 99].map(|byte| demonstrations.beginning_before(byte)), [0, 1, 1, 2, 2]);
        let rendered = template.render_after(demonstrations.text(), &example(3)).unwrap();
        let text = "film 1 It was great\n\nfilm 2 It was terrible\n\nfilm 3 It was";
        assert_eq!((rendered.prompt.as_str(), rendered.verbalized[1].as_str()), (text, &*format!("{text} great")));
        assert_eq!(rendered.answers().collect::<Vec<_>>(), ["terrible", "great"]);
        let null = template.render_null_after(demonstrations.text(), &example(3)).unwrap();
        assert!(null.prompt.ends_with("terrible\n\nIt was"), "{}", null.prompt);
        // Without any, nothing stands before a prompt.
        assert_eq!(Demonstrations::new(template, &[]).unwrap().text(), "");
    }

    #[test]
    fn more_shots_add_to_fewer_and_rows_are_drawn_once() {
        let dataset = Dataset { examples: (1..=9).map(example).collect(), skipped: SkippedRows::default() };
        let lines = |shots, seed| -> Vec<usize> {
            draw_demonstrations(&dataset, shots, seed).unwrap().iter().map(|example| example.line).collect()
        };
        let all = lines(9, 1);
        assert_eq!(lines(4, 1), all[..4]);
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (1..=9).collect::<Vec<_>>());
        assert_ne!(lines(9, 2), all);
        let message = draw_demonstrations(&dataset, 10, 1).unwrap_err().to_string();
        assert_eq!(
            message,
            "10 demonstrations were asked for, but train.jsonl has 9 rows that can be one: ask for at most that many"
        );
    }
}
