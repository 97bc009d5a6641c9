use std::convert::Infallible;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::*;
use crate::hf::Message;

fn read(row: Value) -> Result<Vec<(String, String)>, String> {
    let Value::Object(row) = row else { panic!("not an object") };
    let messages = messages(&row).map_err(|error| error.to_string())?;
    Ok(messages.into_iter().map(|message| (message.role, message.content)).collect())
}

fn turns(turns: &[(&str, &str)]) -> Vec<(String, String)> {
    turns.iter().map(|(role, content)| ((*role).to_owned(), (*content).to_owned())).collect()
}

fn conversation(said: &[(&str, &str)]) -> Vec<Message> {
    turns(said).into_iter().map(|(role, content)| Message { role, content }).collect()
}

#[test]
fn the_forms_in_which_conversations_are_published() {
    let expected = turns(&[("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!")]);
    let chat = json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "and never answered"},
    ]});
    assert_eq!(read(chat).unwrap(), expected);
    let sharegpt = json!({"id": 5, "system": "Be brief.", "conversations": [
        {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"},
    ]});
    assert_eq!(read(sharegpt).unwrap(), expected);
    let alpaca = |input: Value| json!({"instruction": "Add.", "input": input, "output": "3", "system": ""});
    assert_eq!(read(alpaca(json!("1 + 2"))).unwrap(), turns(&[("user", "Add.\n1 + 2"), ("assistant", "3")]));
    for nothing in [json!(""), json!(" "), Value::Null] {
        assert_eq!(read(alpaca(nothing)).unwrap(), turns(&[("user", "Add."), ("assistant", "3")]));
    }
    assert_eq!(read(json!({"instruction": "Add.", "output": "3"})).unwrap().len(), 2);
}

#[test]
fn rows_that_are_no_conversations() {
    let message = |role: &str, content: Value| json!({"role": role, "content": content});
    let of = |messages: Vec<Value>| read(json!({ "messages": messages })).unwrap_err();
    for (told, expected) in [
        (
            read(json!({"text": 1})).unwrap_err(),
            "expected `messages`, `conversations`, or `instruction` and `output`, found only the fields text",
        ),
        (
            read(json!({"messages": "x"})).unwrap_err(),
            "expected `messages` to be a list of messages, found the string \"x\"",
        ),
        (of(vec![json!(1)]), "expected `messages[0]` to be an object, found the number 1"),
        (
            of(vec![json!({"who": 1})]),
            "expected `messages[0]` to have role and content, or from and value, found only who",
        ),
        (
            of(vec![message("tool", json!("x"))]),
            "expected `messages[0]` to be of system, user or assistant, found the string \"tool\"",
        ),
        (
            of(vec![message("user", json!("x")), message("assistant", Value::Null)]),
            "expected `messages[1]` to have a text, found null",
        ),
        (of(vec![message("user", json!([{"type": "image"}]))]), "expected `messages[0]` to have a text, found a list"),
        (of(vec![message("user", json!("x"))]), "expected an answer of the assistant, found none"),
        (of(vec![message("assistant", json!(" "))]), "expected an answer with text, found an empty one as turn 0"),
        (
            of(vec![message("assistant", json!("x"))]),
            "expected someone to speak before the assistant, found an answer as turn 0",
        ),
        (
            of(vec![message("user", json!("x")), message("system", json!("y")), message("assistant", json!("z"))]),
            "expected a system message to be the first, found one as turn 1",
        ),
        (
            read(json!({"instruction": 1, "output": "x"})).unwrap_err(),
            "expected `instruction` to be a string, found the number 1",
        ),
    ] {
        assert_eq!(told, expected);
    }
}

/// ChatML, and a form whose only end of a turn is a line feed.
fn chatml(messages: &[Message], opens: bool) -> Result<String, Infallible> {
    let turn = |message: &Message| format!("<|im_start|>{}\n{}<|im_end|>\n", message.role, message.content);
    let opening = if opens { "<|im_start|>assistant\n" } else { "" };
    Ok(messages.iter().map(turn).collect::<String>() + opening)
}

fn plain(messages: &[Message], opens: bool) -> Result<String, Infallible> {
    let turn = |message: &Message| format!("{}: {}\n", message.role, message.content.trim());
    Ok(messages.iter().map(turn).collect::<String>() + if opens { "assistant:" } else { "" })
}

const TALK: [(&str, &str); 5] =
    [("system", "s"), ("user", "yes?"), ("assistant", "yes? no"), ("user", "a"), ("assistant", "a\nb ")];

#[test]
fn answers_are_found_with_what_ends_them() {
    let said = |render: fn(&[Message], bool) -> Result<String, Infallible>, which| {
        let chat = ChatText::render(&conversation(&TALK), which, render).unwrap();
        chat.answers.iter().map(|bytes| chat.text[bytes.clone()].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(said(chatml, AnswerTurns::All), ["yes? no<|im_end|>", "a\nb <|im_end|>"]);
    assert_eq!(said(chatml, AnswerTurns::Last), ["a\nb <|im_end|>"]);
    assert_eq!(said(plain, AnswerTurns::All), [" yes? no\n", " a\nb\n"]);
}

/// As Phi-3's: a conversation that does not go on ends with a token of its own.
fn closing(messages: &[Message], opens: bool) -> Result<String, Infallible> {
    let turn = |message: &Message| format!("<|{}|>\n{}<|end|>\n", message.role, message.content);
    Ok(messages.iter().map(turn).collect::<String>() + if opens { "<|assistant|>\n" } else { "<|endoftext|>" })
}

#[test]
fn what_ends_a_conversation_ends_no_turn() {
    let chat = ChatText::render(&conversation(&TALK), AnswerTurns::All, closing).unwrap();
    let said: Vec<&str> = chat.answers.iter().map(|bytes| &chat.text[bytes.clone()]).collect();
    assert_eq!(said, ["yes? no<|end|>", "a\nb <|end|>"]);
}

#[test]
fn templates_that_rewrite_turns_leave_the_last_answer() {
    // As models do that think: the thoughts of the last turn only are written down.
    let thinking = |messages: &[Message], opens: bool| -> Result<String, Infallible> {
        let mut text = String::new();
        for (turn, message) in messages.iter().enumerate() {
            let thoughts =
                if turn + 1 == messages.len() && message.role == "assistant" { "<think></think>" } else { "" };
            text += &format!("[{}]{thoughts}{}", message.role, message.content);
        }
        Ok(text + if opens { "[assistant]" } else { "" })
    };
    let messages = conversation(&TALK);
    assert_eq!(ChatText::render(&messages, AnswerTurns::All, thinking), Err(SpanError::Rewritten { turn: 2 }));
    let chat = ChatText::render(&messages, AnswerTurns::Last, thinking).unwrap();
    assert_eq!(&chat.text[chat.answers[0].clone()], "<think></think>a\nb ");
    let silent = |messages: &[Message], _: bool| Ok::<_, Infallible>("x".repeat(messages.len()));
    assert_eq!(ChatText::render(&messages, AnswerTurns::Last, silent), Err(SpanError::Hidden { turn: 4 }));
    let failing = |_: &[Message], _: bool| Err("no system message");
    assert_eq!(ChatText::render(&messages, AnswerTurns::All, failing), Err(SpanError::Render("no system message")));
}

fn tokenizer() -> Tokenizer {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-gqa-tied/model/tokenizer.json");
    Tokenizer::from_file(model).unwrap()
}

proptest! {
    #[test]
    fn the_tokens_of_answers_are_the_answers(said in proptest::collection::vec("[a-z éß\\n]{0,9}[a-z]", 1..4)) {
        let tokenizer = tokenizer();
        let talk: Vec<(&str, &str)> = said.iter().flat_map(|text| [("user", "why ?"), ("assistant", text.as_str())]).collect();
        let messages = conversation(&talk);
        let chat = ChatText::render(&messages, AnswerTurns::All, chatml).unwrap();
        let encoded = chat.encode::<Infallible>(&tokenizer).unwrap();
        prop_assert_eq!(encoded.answers.len(), said.len());
        for (tokens, text) in encoded.answers.iter().zip(&said) {
            let decoded = tokenizer.decode(&encoded.ids[tokens.clone()], false).unwrap();
            prop_assert_eq!(decoded, format!("{text}<|im_end|>"));
        }
        let counted: Vec<usize> = encoded.answers.iter().cloned().flatten().collect();
        let whole = encoded.clone().into_candidate(usize::MAX).unwrap();
        prop_assert_eq!(&whole.ids[..], &encoded.ids[..encoded.answers[said.len() - 1].end]);
        prop_assert_eq!(whole.counted().collect::<Vec<_>>(), counted.clone());
        for limit in [encoded.answers[0].start, encoded.answers[0].start + 1, whole.ids.len() - 1] {
            let left: Vec<usize> = counted.iter().copied().filter(|&position| position < limit).collect();
            match encoded.clone().into_candidate(limit) {
                Some(cut) => {
                    prop_assert_eq!(cut.ids.len(), left.last().unwrap() + 1);
                    prop_assert_eq!(cut.counted().collect::<Vec<_>>(), left);
                }
                None => prop_assert!(left.is_empty()),
            }
        }
    }
}
