//! Where a task's data set is on the Hugging Face hub.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A data set of the hub, and which of its rows train and which evaluate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its id: `owner/name`.
    pub hub: String,
    /// Its configuration, if it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Its rows.
    pub splits: SourceSplits,
}

/// Which rows of a data set are `train.jsonl` and `validation.jsonl` here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSplits {
    /// What trains.
    pub train: SplitRows,
    /// What is evaluated.
    pub validation: SplitRows,
}

/// Rows of one or several splits, one behind the other, written as the `datasets` library does:
/// `train`, `train[:2000]`, `train[2000:]`, `train+validation`. Rows count from 0 and an end is not included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SplitRows(Vec<SplitPart>);

/// Rows of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPart {
    /// Its name on the hub.
    pub split: String,
    /// The first row.
    pub start: usize,
    /// The row after the last; `None` for all to the end.
    pub end: Option<usize>,
}

impl SplitRows {
    /// The parts, in order; at least one.
    pub fn parts(&self) -> &[SplitPart] {
        &self.0
    }
}

impl SplitPart {
    /// The rows of this part in a split of `length` rows.
    pub fn of(&self, length: usize) -> Range<usize> {
        let end = self.end.map_or(length, |end| end.min(length));
        self.start.min(end)..end
    }
}

impl FromStr for SplitPart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\" names no rows of a split; expected a name as \"train\", with rows as \"train[:2000]\" or \
                 \"train[2000:]\""
            )
        };
        let number = |digits: &str| digits.parse::<usize>().map_err(|_| wrong());
        let (split, rows) = match text.split_once('[') {
            Some((split, rows)) => {
                (split, rows.strip_suffix(']').and_then(|rows| rows.split_once(':')).ok_or_else(wrong)?)
            }
            None => (text, ("", "")),
        };
        let plain = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
        if split.is_empty() || !split.chars().all(plain) {
            return Err(wrong());
        }
        let start = if rows.0.is_empty() { 0 } else { number(rows.0)? };
        let end = if rows.1.is_empty() { None } else { Some(number(rows.1)?) };
        if end.is_some_and(|end| end <= start) {
            return Err(format!("\"{text}\" has no rows"));
        }
        Ok(Self { split: split.to_owned(), start, end })
    }
}

impl fmt::Display for SplitPart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.start, self.end) {
            (0, None) => write!(formatter, "{}", self.split),
            (0, Some(end)) => write!(formatter, "{}[:{end}]", self.split),
            (start, None) => write!(formatter, "{}[{start}:]", self.split),
            (start, Some(end)) => write!(formatter, "{}[{start}:{end}]", self.split),
        }
    }
}

impl TryFrom<String> for SplitRows {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for SplitRows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split('+').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl From<SplitPart> for SplitRows {
    fn from(part: SplitPart) -> Self {
        Self(vec![part])
    }
}

impl From<SplitRows> for String {
    fn from(rows: SplitRows) -> Self {
        rows.to_string()
    }
}

impl fmt::Display for SplitRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        formatter.write_str(&parts.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<SplitRows, String> {
        SplitRows::try_from(text.to_owned())
    }

    #[test]
    fn rows_are_written_as_they_are_read() {
        for text in ["train", "train[:2000]", "train[2000:]", "train[5:9]", "train+validation", "dev_r1[:3]+test.x-y"] {
            assert_eq!(rows(text).unwrap().to_string(), text);
        }
        assert_eq!(rows("train + test").unwrap().to_string(), "train+test");
        let part = SplitPart { split: "train".to_owned(), start: 5, end: Some(9) };
        assert_eq!(rows("train[5:9]").unwrap().parts(), std::slice::from_ref(&part));
        assert_eq!((part.of(100), part.of(7), part.of(3)), (5..9, 5..7, 3..3));
        assert_eq!(rows("train[2:]").unwrap().parts()[0].of(7), 2..7);
    }

    #[test]
    fn what_names_no_rows_is_refused() {
        for text in ["", "train+", "train[", "train[5]", "train[a:]", "train[-5:]", "train[50%:]", "a/b"] {
            assert!(rows(text).unwrap_err().contains("names no rows"), "{text}");
        }
        assert_eq!(rows("train[5:5]").unwrap_err(), "\"train[5:5]\" has no rows");
    }
}
