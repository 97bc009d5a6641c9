//! Training rows that say what an evaluated row says.

use std::collections::HashSet;

use super::dataset::Example;

/// The positions, ascending, of those of `examples` whose fields are those of one of `others`, whatever their labels.
pub fn overlapping(examples: &[Example], others: &[Example]) -> Vec<usize> {
    let known: HashSet<String> = others.iter().map(text).collect();
    (0..examples.len()).filter(|&row| known.contains(&text(&examples[row]))).collect()
}

/// The positions, ascending, of those of `examples` whose fields are those of an earlier one.
pub fn repeated(examples: &[Example]) -> Vec<usize> {
    let mut known = HashSet::with_capacity(examples.len());
    (0..examples.len()).filter(|&row| !known.insert(text(&examples[row]))).collect()
}

/// The declared fields as one text, in which white space at the ends of strings does not count: templates strip it.
fn text(example: &Example) -> String {
    let parts = example.fields.iter().map(|(name, value)| match value.as_str() {
        Some(text) => format!("{name}={:?}", text.trim()),
        None => format!("{name}={value}"),
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::row::Gold;
    use super::*;

    fn examples(texts: &[&str]) -> Vec<Example> {
        let example = |(line, text): (usize, &&str)| Example {
            source: Path::new("t.jsonl").into(),
            line: line + 1,
            fields: [("a".to_owned(), json!(text)), ("n".to_owned(), json!(1))].into_iter().collect(),
            gold: Gold::Candidates(vec![line % 2]),
        };
        texts.iter().enumerate().map(example).collect()
    }

    #[test]
    fn labels_and_white_space_at_the_ends_do_not_count() {
        let train = examples(&["x", "y ", "z", "Y", "x"]);
        assert_eq!(overlapping(&train, &examples(&["q", "y", "x"])), [0, 1, 4]);
        assert_eq!(repeated(&train), [4]);
        assert!(overlapping(&train, &[]).is_empty());
    }
}
