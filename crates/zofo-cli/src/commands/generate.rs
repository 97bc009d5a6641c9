//! `zofo generate`.

mod prompt;
mod text_stream;

use crate::arguments::{Dtype, JsonArgument, ModelArgument, ThreadsArgument, path};
use crate::errors::Error;
use crate::model;
use crate::output::{Reader, print, print_json};
use crate::progress::Messenger;
use burn::tensor::Device;
use clap::Args;
use prompt::{PromptText, check_length, encode, read};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;
use text_stream::TextStream;
use zofo::eval::{Generation, Sampling, generate};
use zofo::model::Backbone;
use zofo::peft::Adapter;

/// Arguments of `zofo generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
The text appears as it is made, and ends where the model ends it.

Examples:
  zofo generate --model model.gguf --prompt 'The capital of France is'
  zofo generate --model HuggingFaceTB/SmolLM2-135M-Instruct@main --prompt 'The capital of France is'
  zofo generate --model model.gguf --chat --prompt 'Which is the capital of France?'
  zofo generate --model runs/demo/backbone --prompt - --temperature 0.8 --top-p 0.95 < prompt.txt")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// A PEFT adapter folder, or an adapter of the Hugging Face Hub: org/name[@revision].
    #[arg(long, value_parser = path())]
    adapter: Option<PathBuf>,
    /// The text to go on from; `-` reads it from stdin.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// The prompt is what a user says to an assistant: it is put into the model's chat template.
    #[arg(long)]
    chat: bool,
    /// What the chat begins with, before the user: how the assistant should be.
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    system: Option<String>,
    /// At most this many new tokens.
    #[arg(long, value_name = "TOKENS", default_value = "64")]
    max_new_tokens: NonZeroUsize,
    /// 0 takes the likeliest token; above, tokens are drawn, from probabilities that are flatter the higher it is.
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    temperature: f64,
    /// Draw from the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = 1.0, value_parser = top_p)]
    top_p: f64,
    /// The same seed draws the same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How weights are stored in memory.
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    #[command(flatten)]
    threads: ThreadsArgument,
    #[command(flatten)]
    report: JsonArgument,
}

fn temperature(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("expected a number from 0".to_owned()) }
}

fn top_p(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err("expected a number above 0, at most 1".to_owned()) }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// All that the model was given; of a chat, with what its template puts around the messages.
    prompt: String,
    /// What was generated, without the prompt.
    text: String,
    prompt_tokens: usize,
    new_tokens: usize,
    stopped: Stopped,
    seconds: f64,
    tokens_per_second: f64,
}

/// Why there is no more text.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stopped {
    /// The model ended it.
    EndOfText,
    /// `--max-new-tokens` are there.
    MaxNewTokens,
}

/// Generates text.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    arguments.threads.set()?;
    let given = read(&arguments.prompt)?;
    let messenger = Messenger::new();
    let files = arguments.model.open(&messenger)?;
    let tokenizer = files.tokenizer()?;
    let max_new_tokens = arguments.max_new_tokens.get();
    let text = if arguments.chat {
        PromptText::chat(&files, arguments.system.as_deref(), given)?
    } else {
        PromptText::Plain(given)
    };
    let prompt = encode(tokenizer.clone(), &text, files.config().vocabulary)?;
    let device = Device::flex();
    let adapter = match &arguments.adapter {
        Some(name) => Some(model::read_adapter(name, &files, &device, &messenger)?),
        None => None,
    };
    let virtual_tokens = adapter.as_ref().map_or(0, Adapter::virtual_tokens);
    check_length(prompt.len(), max_new_tokens, files.config().limits().context, virtual_tokens)?;

    let backbone = Backbone::load(&files, arguments.dtype.into(), &device)?;
    let sampling = if arguments.temperature == 0.0 {
        Sampling::Greedy
    } else {
        Sampling::Nucleus { temperature: arguments.temperature, top_p: arguments.top_p, seed: arguments.seed }
    };
    let request = Generation { prompt: &prompt, max_new_tokens, stop: files.eos_token_ids(), sampling };

    let start = Instant::now();
    let mut stream = TextStream::new(&tokenizer, &prompt)?;
    let mut generated = String::new();
    // The closure can only say stop; why is kept here.
    let mut sent = Ok(Reader::Listens);
    let new = generate(&backbone, adapter.as_ref(), &request, |token| {
        sent = stream.push(token).and_then(|text| {
            generated += text;
            if arguments.report.json { Ok(Reader::Listens) } else { print(text) }
        });
        matches!(sent, Ok(Reader::Listens))
    })
    .map_err(|error| Error::Input(error.to_string()))?;
    let seconds = start.elapsed().as_secs_f64();
    if sent? == Reader::Left {
        return Ok(());
    }
    let rest = stream.finish();
    generated += &rest;
    let report = Report {
        prompt: text.into_text(),
        text: generated,
        prompt_tokens: prompt.len(),
        new_tokens: new.len(),
        stopped: if new.len() < max_new_tokens { Stopped::EndOfText } else { Stopped::MaxNewTokens },
        seconds,
        tokens_per_second: new.len() as f64 / seconds,
    };
    if arguments.report.json {
        print_json(&report)?;
    } else {
        print(&format!("{rest}\n"))?;
        messenger.say(&format!(
            "{} tokens of prompt, {} new ones in {seconds:.1} s, {:.1} tokens/s",
            report.prompt_tokens, report.new_tokens, report.tokens_per_second
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(temperature("0"), Ok(0.0));
        assert!(temperature("-0.1").is_err() && temperature("NaN").is_err() && temperature("inf").is_err());
        assert_eq!(top_p("1"), Ok(1.0));
        assert!(top_p("0").is_err() && top_p("1.01").is_err() && top_p("NaN").is_err());
    }
}
