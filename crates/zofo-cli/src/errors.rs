//! What the user sees when something fails, and the exit code.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::iter;
use std::path::PathBuf;
use std::process::ExitCode;
use zofo::bench::BenchError;
use zofo::eval::GenerationError;
use zofo::hf::HfError;
use zofo::hf::hub::HubError;
use zofo::peft::MergeError;
use zofo::report::ReportError;
use zofo::run::RunError;
use zofo::run::config::ConfigError;
use zofo::sweep::SweepError;
use zofo::task::TaskError;
use zofo::zo::journal::JournalError;

/// Anything without an exit code of its own.
pub const OTHER: u8 = 1;
/// The arguments or the configuration.
const USAGE: u8 = 2;
/// A model, data, adapter or journal file.
const INPUT: u8 = 3;
/// Training diverged.
const DIVERGED: u8 = 4;
/// Memory or disk.
const RESOURCES: u8 = 5;
/// Interrupted, and all is saved.
pub const INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refused.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    /// Something that was read makes no sense.
    #[error("{0}")]
    Input(String),
    /// Stdin cannot be read.
    #[error("cannot read the prompt from standard input")]
    Stdin(#[source] io::Error),
    /// Stdout cannot be written.
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    /// No thread could be started.
    #[error("cannot start the thread pool")]
    Threads(#[source] rayon::ThreadPoolBuildError),
    /// MeZO cannot be measured by itself.
    #[error("the process that measures MeZO alone failed: {0}")]
    OwnProcess(String),
    /// The sweep itself, not a run of it.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// All runs of a sweep have ended, some without results.
    #[error("{failed} of {of} runs failed: the table says why, and their logs are in {}", logs.display())]
    RunsFailed {
        /// How many.
        failed: usize,
        /// Of how many.
        of: usize,
        /// The folder of their logs.
        logs: PathBuf,
    },
    /// A report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A file that is asked for cannot be written.
    #[error("cannot write {}", path.display())]
    Output {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Ctrl-C cannot be caught.
    #[error("cannot prepare for Ctrl-C")]
    Signal(#[source] ctrlc::Error),
}

impl From<HfError> for Error {
    fn from(error: HfError) -> Self {
        Self::Run(error.into())
    }
}

impl From<MergeError> for Error {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Model(error) => error.into(),
            error => Self::Usage(error.to_string()),
        }
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        Self::Run(error.into())
    }
}

impl From<BenchError> for Error {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Task(error) => error.into(),
            error => Self::Input(error.to_string()),
        }
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        Self::Run(error.into())
    }
}

/// Prints an error with its causes and a hint to stderr, and gives its exit code.
pub fn report(error: &Error) -> ExitCode {
    // If even this fails there is nobody left to tell.
    let _ = io::stderr().write_all(describe(error).as_bytes());
    ExitCode::from(exit_code(error))
}

/// The message: `error: …`, a line per cause, and a hint if there is one.
fn describe(error: &Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut said = error.to_string();
    for cause in causes(error) {
        let cause = cause.to_string();
        // Some messages tell their cause in the middle of a sentence.
        if !said.contains(&cause) {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "  caused by: {cause}");
            said = cause;
        }
    }
    if let Some(hint) = hint(error) {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

fn causes(error: &Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    iter::successors(error.source(), |&cause| cause.source())
}

/// The system's reason, if it was the system that refused.
fn system_reason(error: &Error) -> Option<ErrorKind> {
    causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn is_exhausted(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge | ErrorKind::OutOfMemory)
}

fn exit_code(error: &Error) -> u8 {
    let reason = system_reason(error);
    if reason.is_some_and(is_exhausted) {
        return RESOURCES;
    }
    match error {
        Error::Usage(_) => USAGE,
        Error::Input(_) | Error::Stdin(_) => INPUT,
        Error::Stdout(_)
        | Error::Signal(_)
        | Error::OwnProcess(_)
        | Error::RunsFailed { .. }
        | Error::Output { .. } => OTHER,
        Error::Sweep(error) => match error {
            SweepError::Report(error) => report_exit_code(error),
            SweepError::Read { .. }
            | SweepError::File { .. }
            | SweepError::Config { .. }
            | SweepError::Changed { .. }
            | SweepError::Foreign { .. } => USAGE,
            _ => OTHER,
        },
        Error::Report(error) => report_exit_code(error),
        Error::Threads(_) => RESOURCES,
        Error::Run(error) => match error {
            RunError::Config(ConfigError::Write { .. }) => OTHER,
            RunError::Config(_)
            | RunError::Adapter(_)
            | RunError::Conflict(_)
            | RunError::OutputExists { .. }
            | RunError::NotARun { .. } => USAGE,
            RunError::Task(error) => task_exit_code(error),
            RunError::Hf(HfError::Hub(error)) => hub_exit_code(error),
            // An output folder in which something else lies.
            RunError::Hf(HfError::File(_)) if reason == Some(ErrorKind::AlreadyExists) => USAGE,
            // The files are fine; what was made of them is not.
            RunError::Hf(HfError::ReadBack { .. }) => OTHER,
            RunError::Hf(HfError::File(file)) if !matches!(file.operation(), "read" | "open" | "map") => OTHER,
            RunError::Hf(_) | RunError::ForeignJournal(_) | RunError::Checkpoint { .. } => INPUT,
            RunError::Journal(JournalError::Io { action, .. }) if *action != "read" => OTHER,
            RunError::Journal(JournalError::Exists { .. }) => USAGE,
            RunError::Journal(_) => INPUT,
            RunError::Diverged { .. } | RunError::Answers { source: GenerationError::NotFinite { .. }, .. } => DIVERGED,
            RunError::Answers { source: GenerationError::Decode(_), .. } => INPUT,
            RunError::Answers { source: GenerationError::Stopped, .. }
            | RunError::Busy { .. }
            | RunError::File(_)
            | RunError::Io { .. } => OTHER,
        },
    }
}

/// Folders that a report is to be made of are its input.
fn report_exit_code(error: &ReportError) -> u8 {
    match error {
        ReportError::NoRuns { .. } | ReportError::Read { .. } => INPUT,
        _ => OTHER,
    }
}

/// A task file and the numbers that divide the data are configuration; rows are data.
fn task_exit_code(error: &TaskError) -> u8 {
    match error {
        TaskError::UnknownTask { .. }
        | TaskError::ReadDefinition { .. }
        | TaskError::Definition { .. }
        | TaskError::TemplateSyntax { .. }
        | TaskError::Template { .. }
        | TaskError::NotClassification { .. }
        | TaskError::UnknownField { .. }
        | TaskError::NoTemplate { .. }
        | TaskError::NoClasses { .. }
        | TaskError::NoSource { .. }
        | TaskError::BadLocation { .. }
        | TaskError::OneFile { .. }
        | TaskError::TooFewRows { .. }
        | TaskError::TooFewOfClass { .. }
        | TaskError::TooFewDemonstrations { .. }
        | TaskError::NoRoomToGenerate { .. }
        | TaskError::EmptySplit { .. }
        | TaskError::BatchTooLarge { .. } => USAGE,
        TaskError::Hub(error) => hub_exit_code(error),
        _ => INPUT,
    }
}

/// A model that is not there is input; a hub that does not answer is not.
fn hub_exit_code(error: &HubError) -> u8 {
    match error {
        HubError::Setting { .. } => USAGE,
        HubError::Network { .. } | HubError::TooManyRequests { .. } | HubError::Status { .. } | HubError::File(_) => {
            OTHER
        }
        HubError::Interrupted => INTERRUPTED,
        _ => INPUT,
    }
}

/// What to do, where the message itself does not say it.
fn hint(error: &Error) -> Option<String> {
    if let Some(kind) = system_reason(error).filter(|kind| is_exhausted(*kind)) {
        let what = if kind == ErrorKind::OutOfMemory { "memory" } else { "disk space" };
        return Some(format!(
            "free some {what} and run the command again; training goes on with `zofo train --resume FOLDER`"
        ));
    }
    match error {
        Error::Run(RunError::Config(ConfigError::Read { source, .. })) if source.kind() == ErrorKind::NotFound => Some(
            "give the path of a TOML file; the folder examples/ of zofo's source has some to start from".to_owned(),
        ),
        Error::Run(RunError::Hf(HfError::NoSuchModel { .. })) => Some(
            "a model is a Hugging Face model folder, a .gguf file, or, on the Hugging Face Hub, org/name[@revision] or \
             org/name/file.gguf[@revision]"
                .to_owned(),
        ),
        Error::Run(RunError::Hf(HfError::NoSuchAdapter { .. })) => Some(
            "an adapter is a folder in PEFT's format, or, on the Hugging Face Hub, org/name[@revision]".to_owned(),
        ),
        Error::Run(RunError::Task(TaskError::MissingData { .. })) => {
            Some(
                "`--data` (of `train`: `data.dir`) is the folder that holds a folder of the task's name, or that folder; or \
                 hf://datasets/ORG/NAME, a data set of the hub"
                    .to_owned(),
            )
        }
        Error::Run(RunError::Diverged { output, .. }) => {
            let folder = output.display();
            Some(format!(
                "start a new run with lower learning rates: `zofo train {folder}/config.toml --set run.output=NEW \
                 --set outer.lr=LOWER --set inner.lr=LOWER`"
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(kind: ErrorKind) -> Error {
        let source = io::Error::new(kind, "the system says so");
        RunError::Io { path: PathBuf::from("runs/x/metrics.jsonl"), source }.into()
    }

    #[test]
    fn exhausted_resources_have_their_code_whatever_they_are_wrapped_in() {
        assert_eq!(exit_code(&io_error(ErrorKind::StorageFull)), RESOURCES);
        assert_eq!(exit_code(&io_error(ErrorKind::PermissionDenied)), OTHER);
        let journal = |action, kind: ErrorKind| {
            Error::from(JournalError::Io { path: PathBuf::from("journal.zofo"), action, source: kind.into() })
        };
        assert_eq!(exit_code(&journal("append to", ErrorKind::QuotaExceeded)), RESOURCES);
        assert_eq!(exit_code(&journal("append to", ErrorKind::PermissionDenied)), OTHER);
        assert_eq!(exit_code(&journal("read", ErrorKind::NotFound)), INPUT);
        assert_eq!(exit_code(&Error::Stdout(ErrorKind::StorageFull.into())), RESOURCES);
    }

    #[test]
    fn what_a_message_says_is_not_said_again() {
        let text = describe(&io_error(ErrorKind::PermissionDenied));
        assert_eq!(text, "error: `runs/x/metrics.jsonl`: the system says so\n");
        let unread = ConfigError::Read { path: PathBuf::from("x.toml"), source: ErrorKind::NotFound.into() };
        let text = describe(&RunError::from(unread).into());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "error: cannot read the configuration x.toml");
        assert_eq!(lines[1], "  caused by: entity not found");
        assert!(lines[2].starts_with("hint: give the path"), "{text}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn configuration_and_data_differ() {
        let task = |error: TaskError| exit_code(&error.into());
        assert_eq!(task(TaskError::EmptySplit { part: "inner", reason: String::new() }), USAGE);
        let row = TaskError::Row {
            path: PathBuf::from("train.jsonl"),
            line: 3,
            expected: "a JSON object".to_owned(),
            found: "an empty line".to_owned(),
        };
        assert_eq!(task(row), INPUT);
    }
}
