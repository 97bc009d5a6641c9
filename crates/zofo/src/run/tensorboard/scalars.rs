//! Which scalars a record of `metrics.jsonl` is: all its numbers, in the groups that TensorBoard shows together.

use serde_json::{Map, Value};

/// What the numbers in `learning_rates` belong to.
const LEARNING_RATES: [&str; 3] = ["s", "p", "backbone"];

/// Numbers of one step.
#[derive(Debug, PartialEq)]
pub(super) struct Scalars {
    /// The place on the axis: see [`Progress`](super::Progress).
    pub(super) step: i64,
    /// `group/name` and value.
    pub(super) values: Vec<(String, f64)>,
}

impl Scalars {
    /// Those of a record. `None` if it is of a kind that has none.
    pub(super) fn of(record: &Map<String, Value>, warm_start: usize) -> Option<Self> {
        let place = |key: &str| record.get(key).and_then(Value::as_i64);
        let (step, values) = match record.get("event")?.as_str()? {
            "warm_start" => (place("inner_step")? - 1 - warm_start as i64, grouped("warm_start", record)),
            "step" => (place("step")?, training(record)),
            "evaluation" => (place("step")?, grouped("validation", record)),
            "summary" => (place("steps")?, test(record)),
            _ => return None,
        };
        Some(Self { step, values })
    }
}

/// The numbers of a step, with the learning rates in a group of their own, and the speed.
fn training(fields: &Map<String, Value>) -> Vec<(String, f64)> {
    let mut fields = fields.clone();
    let rates = fields.remove("learning_rates");
    let rates = rates.as_ref().and_then(Value::as_array).into_iter().flatten();
    let rates = LEARNING_RATES.iter().zip(rates).filter_map(|(of, rate)| Some((of, rate.as_f64()?)));
    let mut values = grouped("train", &fields);
    values.extend(rates.map(|(of, rate)| (format!("learning_rate/{of}"), rate)));
    let number = |name: &str| fields.get(name).and_then(Value::as_f64);
    if let (Some(tokens), Some(seconds)) = (number("tokens"), number("seconds")) {
        values.push(("train/tokens_per_second".to_owned(), tokens / seconds));
    }
    values
}

/// The final scores. What they are of is named as in `validation`; `untouched` is θ₀.
fn test(fields: &Map<String, Value>) -> Vec<(String, f64)> {
    let scores = fields.get("scores").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    let mut values = Vec::new();
    for score in scores {
        let of = match score.get("name").and_then(Value::as_str).unwrap_or_default() {
            "untouched model" => "untouched",
            "(θ₀, p)" => "untouched_p",
            "θ" => "backbone",
            "(θ, p)" => "p",
            "(θ, s)" => "s",
            other => other,
        };
        let measures = score.iter().filter(|(name, _)| *name != "examples");
        values.extend(measures.filter_map(|(name, value)| Some((format!("test/{name}_{of}"), value.as_f64()?))));
    }
    values
}

/// `group/name` of all numbers but those that say which step it is. One in an object is called as it is there, and after
/// the object: `accuracy_p`; one in a list has its index: `slopes_0`.
fn grouped(group: &str, fields: &Map<String, Value>) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    let mut put = |name: String, value: &Value| values.extend(value.as_f64().map(|value| (name, value)));
    for (name, value) in fields.iter().filter(|(name, _)| !["step", "inner_step"].contains(&name.as_str())) {
        match value {
            Value::Object(inner) => inner.iter().for_each(|(of, value)| put(format!("{group}/{of}_{name}"), value)),
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(i, value)| put(format!("{group}/{name}_{i}"), value))
            }
            _ => put(format!("{group}/{name}"), value),
        }
    }
    values
}
