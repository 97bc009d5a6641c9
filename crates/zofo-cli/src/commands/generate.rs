//! `zofo generate`.

mod prompt;
mod text_stream;

use crate::arguments::{Decoding, Dtype, JsonArgument, ModelArgument, ThreadsArgument, path};
use crate::errors::Error;
use crate::model;
use crate::output::{Reader, print, print_json};
use crate::progress::Messenger;
use burn::tensor::Device;
use clap::Args;
use prompt::{PromptText, check_length, encode, read};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;
use text_stream::TextStream;
use zofo::eval::{AnswerEnd, Author, Generation, beam_search, generate};
use zofo::model::Backbone;
use zofo::peft::Adapter;

/// Arguments of `zofo generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
The text appears as it is made (that of a search for it when it is found), and ends where the model ends it.

Examples:
  zofo generate --model model.gguf --prompt 'The capital of France is'
  zofo generate --model HuggingFaceTB/SmolLM2-135M-Instruct@main --prompt 'The capital of France is'
  zofo generate --model model.gguf --chat --prompt 'Which is the capital of France?'
  zofo generate --model model.gguf --prompt 'The capital of France is' --beams 4
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
    #[command(flatten)]
    decoding: Decoding,
    /// How weights are stored in memory.
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    #[command(flatten)]
    pub(super) threads: ThreadsArgument,
    #[command(flatten)]
    report: JsonArgument,
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
    let stop = files.eos_token_ids();

    let start = Instant::now();
    let mut stream = TextStream::new(&tokenizer, &prompt)?;
    let mut generated = String::new();
    // The closure can only say stop; why is kept here.
    let mut sent = Ok(Reader::Listens);
    let mut send = |token| {
        sent = stream.push(token).and_then(|text| {
            generated += text;
            if arguments.report.json { Ok(Reader::Listens) } else { print(text) }
        });
        matches!(sent, Ok(Reader::Listens))
    };
    let new = match arguments.decoding.beams {
        None => {
            let sampling = arguments.decoding.sampling();
            let request = Generation { prompt: &prompt, max_new_tokens, stop, sampling };
            generate(&backbone, adapter.as_ref(), &request, send)
        }
        Some(beams) => {
            let end = AnswerEnd { tokens: stop, texts: &[], max_new_tokens };
            let prompts = std::slice::from_ref(&prompt);
            let author = Author::new(&backbone, adapter.as_ref());
            let found = beam_search(author, &tokenizer, prompts, end, beams, |_| ControlFlow::Continue(()));
            found.map(|found| {
                let best = found.into_iter().flat_map(|best| best.tokens).filter(|token| !stop.contains(token));
                best.take_while(|&token| send(token)).collect()
            })
        }
    }
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
