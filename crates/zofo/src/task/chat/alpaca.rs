//! The plain form of an instruction, for models without a chat template.

use serde_json::Value;

use super::spans::ChatText;
use crate::task::row::Fields;

const WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further \
                          context. Write a response that appropriately completes the request.";
const WITHOUT_INPUT: &str =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

/// The text of an instruction and its answer, as Stanford Alpaca's (github.com/tatsu-lab/stanford_alpaca), with a line feed
/// behind `### Response:` as most who use it have, so that no token is of both. `system` takes the place of the first
/// paragraph. `None` for another kind of conversation.
pub(super) fn text(fields: &Fields) -> Option<ChatText> {
    let field = |name: &str| fields.get(name).and_then(Value::as_str);
    let said = |name: &str| field(name).filter(|text| !text.trim().is_empty());
    let (instruction, output) = (field("instruction")?, field("output")?);
    let (first, input) = match said("input") {
        Some(input) => (WITH_INPUT, format!("### Input:\n{input}\n\n")),
        None => (WITHOUT_INPUT, String::new()),
    };
    let first = said("system").unwrap_or(first);
    let prompt = format!("{first}\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n");
    let text = format!("{prompt}{output}");
    let answer = prompt.len()..text.len();
    Some(ChatText { text, answers: vec![answer] })
}
