//! PEFT's rules for choosing modules by their names.

use std::fmt::Debug;

use fancy_regex::Regex;
use serde::{Serialize, Serializer};

/// Modules by name, as peft's `target_modules` and `exclude_modules` give them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ModuleNames {
    /// By the end of their path, as `q_proj`, or the whole of it.
    List(Vec<String>),
    /// By a regular expression that matches the whole of their path.
    Pattern(String),
}

/// Values for the modules whose path ends in what a regular expression matches, as peft's `rank_pattern` and
/// `alpha_pattern` give them. The first expression that matches counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(Vec<(String, T)>);

/// A regular expression that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the regular expression `{pattern}` cannot be used: {source}")]
pub struct BadPattern {
    /// The expression.
    pub pattern: String,
    /// Why.
    pub source: Box<fancy_regex::Error>,
}

/// PEFT's rule for a list of names: a module is meant by its whole path, or by the end of it.
pub(crate) fn is_meant(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl ModuleNames {
    /// Whether each of `modules` is meant.
    ///
    /// # Errors
    /// The pattern is no regular expression, or takes too long.
    pub(crate) fn mean(&self, modules: &[&str]) -> Result<Vec<bool>, BadPattern> {
        match self {
            Self::List(names) => {
                Ok(modules.iter().map(|module| names.iter().any(|name| is_meant(module, name))).collect())
            }
            Self::Pattern(pattern) => {
                let expression = Expression::new(pattern, format!(r"\A(?:{pattern})\z"))?;
                modules.iter().map(|module| expression.matches(module)).collect()
            }
        }
    }
}

impl<T> Patterns<T> {
    /// The expressions with their values, in order.
    pub fn new(entries: Vec<(String, T)>) -> Self {
        Self(entries)
    }

    /// The expressions with their values, in order.
    pub fn entries(&self) -> &[(String, T)] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which expression, by its place, counts for each of `modules`.
    ///
    /// # Errors
    /// An expression is not regular, or takes too long.
    pub(crate) fn places(&self, modules: &[&str]) -> Result<Vec<Option<usize>>, BadPattern> {
        let expressions = self.0.iter().map(|(text, _)| Expression::new(text, format!(r"\A(?:.*\.)?(?:{text})\z")));
        let expressions: Vec<Expression> = expressions.collect::<Result<_, _>>()?;
        let place = |module: &&str| {
            for (place, expression) in expressions.iter().enumerate() {
                if expression.matches(module)? {
                    return Ok(Some(place));
                }
            }
            Ok(None)
        };
        modules.iter().map(place).collect()
    }
}

impl<T: Copy> Patterns<T> {
    /// The value for each of `modules`; `default` where no expression matches.
    ///
    /// # Errors
    /// As [`places`](Self::places).
    pub(crate) fn values(&self, modules: &[&str], default: T) -> Result<Vec<T>, BadPattern> {
        let places = self.places(modules)?;
        Ok(places.into_iter().map(|place| place.map_or(default, |place| self.0[place].1)).collect())
    }
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pattern, value)| (pattern, value)))
    }
}

/// A compiled expression, and what it was before it was anchored.
struct Expression<'a> {
    text: &'a str,
    regex: Regex,
}

impl<'a> Expression<'a> {
    fn new(text: &'a str, anchored: String) -> Result<Self, BadPattern> {
        // By itself first: `a)(b` would become one by what stands around it.
        Regex::new(text).and_then(|_| Regex::new(&anchored)).map(|regex| Self { text, regex }).map_err(bad(text))
    }

    fn matches(&self, module: &str) -> Result<bool, BadPattern> {
        self.regex.is_match(module).map_err(bad(self.text))
    }
}

fn bad(pattern: &str) -> impl FnOnce(fancy_regex::Error) -> BadPattern {
    let pattern = pattern.to_owned();
    move |source| BadPattern { pattern, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q0: &str = "model.layers.0.self_attn.q_proj";
    const V1: &str = "model.layers.1.self_attn.v_proj";
    const UP: &str = "model.layers.1.mlp.up_proj";

    fn list(names: &[&str]) -> ModuleNames {
        ModuleNames::List(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn names_in_a_list_mean_whole_parts_of_paths() {
        let mean = |names: &[&str]| list(names).mean(&[Q0, V1, "q_proj", "model.xq_proj"]).unwrap();
        assert_eq!(mean(&["q_proj"]), [true, false, true, false]);
        assert_eq!(mean(&["self_attn.q_proj", V1]), [true, true, false, false]);
        assert_eq!(mean(&["proj", "_proj", "model"]), [false; 4]);
    }

    /// As `re.fullmatch` answers.
    #[test]
    fn patterns_match_whole_paths() {
        let mean = |pattern: &str| ModuleNames::Pattern(pattern.to_owned()).mean(&[Q0, V1, UP]).unwrap();
        assert_eq!(mean(r".*\.[qv]_proj"), [true, true, false]);
        assert_eq!(mean("q_proj"), [false; 3]);
        assert_eq!(mean(r"model\.layers\.1"), [false; 3]);
        assert_eq!(mean(r".*q_proj|.*up_proj"), [true, false, true]);
        assert_eq!(mean(r"(?!.*mlp).*\.1\..*"), [false, true, false]);
    }

    /// As peft's `get_pattern_key` answers.
    #[test]
    fn patterns_for_values_match_ends_of_paths_and_the_first_counts() {
        let values = |patterns: &[(&str, usize)]| {
            let patterns = patterns.iter().map(|&(pattern, value)| (pattern.to_owned(), value)).collect();
            Patterns::new(patterns).values(&[Q0, V1, UP], 8).unwrap()
        };
        assert_eq!(values(&[("q_proj", 4)]), [4, 8, 8]);
        assert_eq!(values(&[("layers.1.*", 2), ("v_proj", 4)]), [8, 2, 2]);
        assert_eq!(values(&[("v_proj", 4), ("layers.1.*", 2)]), [8, 4, 2]);
        assert_eq!(values(&[(Q0, 1), ("proj", 3), ("(q|up)_proj", 5)]), [1, 8, 5]);
        assert_eq!(values(&[]), [8; 3]);
    }

    #[test]
    fn expressions_that_cannot_be_used_are_named() {
        for pattern in ["q_proj(", "a)(b", "*"] {
            let error = ModuleNames::Pattern(pattern.to_owned()).mean(&[Q0]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("the regular expression `{pattern}` cannot be used: ")));
            let patterns = Patterns::new(vec![(pattern.to_owned(), 1)]);
            assert_eq!(patterns.values(&[Q0], 2).unwrap_err().pattern, pattern);
        }
    }

    #[test]
    fn patterns_are_written_as_an_object_in_their_order() {
        let patterns = Patterns::new(vec![("v".to_owned(), 4), ("a".to_owned(), 2)]);
        assert_eq!(serde_json::to_string(&patterns).unwrap(), r#"{"v":4,"a":2}"#);
    }
}
