//! The runs of a sweep, a few at a time, each until its end.

use super::error::SweepError;
use super::log::{LogEntry, RunStatus, SweepLog};
use super::plan::{PlannedRun, SweepPlan};
use super::process::{Process, has_entries, is_begun, is_busy};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

const LOCK: &str = ".lock";
const LOGS: &str = "logs";
const BACKBONE: &str = "backbone";

/// Between two looks at the processes. Runs take minutes.
const INTERVAL: Duration = Duration::from_millis(50);

/// How a sweep is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `zofo` program.
    pub program: PathBuf,
    /// Runs at a time.
    pub jobs: NonZeroUsize,
    /// Whether runs that failed are tried once more.
    pub retry_failed: bool,
}

/// Is told what happens. Every method may do nothing.
pub trait SweepObserver {
    /// Something worth a line.
    fn note(&mut self, _message: &str) {}
    /// A run begins, or goes on; its number from 1, and of how many.
    fn started(&mut self, _run: &PlannedRun, _resumed: bool, _number: usize, _of: usize) {}
    /// A run ended, or was interrupted.
    fn ended(&mut self, _run: &PlannedRun, _status: &RunStatus, _seconds: f64) {}
}

/// For sweeps that nobody watches.
impl SweepObserver for () {}

/// How a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All runs have come to an end; so many of them failed.
    Done {
        /// Runs that failed, now or earlier.
        failed: usize,
    },
    /// It was interrupted, and all is saved.
    Interrupted,
}

/// Where the process of a sweep's run writes what it says.
pub(crate) fn log_file(output: &Path, run: &str) -> PathBuf {
    output.join(LOGS).join(format!("{run}.log"))
}

/// Does the runs that are not done. When `interrupted` becomes true, those at hand finish their step and save.
///
/// # Errors
///
/// What is wrong with the sweep or its folder. Runs that fail are no error.
pub fn run(
    plan: &SweepPlan,
    options: &Options,
    observer: &mut dyn SweepObserver,
    interrupted: &AtomicBool,
) -> Result<Outcome, SweepError> {
    let output = &plan.file.output;
    let logs = output.join(LOGS);
    fs::create_dir_all(&logs).map_err(SweepError::io(&logs))?;
    let _lock = lock(output)?;
    let earlier = SweepLog::read(output)?;
    let mut waiting: VecDeque<&PlannedRun> = to_do(plan, &earlier, options.retry_failed)?.into();
    tell_what_is_left_out(plan, &earlier, waiting.len(), observer);
    let mut log = SweepLog::open(output)?;
    let mut working: Vec<(&PlannedRun, Process)> = Vec::new();
    let (mut number, mut stopping, mut told) = (0, false, false);
    let of = waiting.len();
    loop {
        if !stopping && interrupted.load(Ordering::SeqCst) {
            stopping = true;
            working.iter_mut().for_each(|(_, process)| process.stop());
        }
        while !stopping && working.len() < options.jobs.get() {
            let Some(free) = waiting.iter().position(|run| !is_busy(&run.folder)) else { break };
            let Some(next) = waiting.remove(free) else { break };
            number += 1;
            observer.started(next, is_begun(&next.folder), number, of);
            log.started(&next.name, &next.settings)?;
            let threads = threads_of(next, options.jobs);
            let file = log_file(output, &next.name);
            working.push((next, Process::start(&options.program, &plan.file.base, next, threads, &file)?));
        }
        if working.is_empty() {
            if stopping || waiting.is_empty() {
                break;
            }
            if !told {
                observer.note("waiting for processes of a sweep that was ended: they still save their runs");
                told = true;
            }
        }
        sleep(INTERVAL);
        let mut index = 0;
        while index < working.len() {
            let Some((status, elapsed)) = working[index].1.poll()? else {
                index += 1;
                continue;
            };
            let (run, _) = working.swap_remove(index);
            if status == RunStatus::Finished && !plan.file.keep_backbones {
                discard(&run.folder.join(BACKBONE))?;
            }
            log.ended(&run.name, &status, elapsed.as_secs_f64())?;
            observer.ended(run, &status, elapsed.as_secs_f64());
        }
    }
    if stopping {
        return Ok(Outcome::Interrupted);
    }
    let now = SweepLog::read(output)?;
    let is_failed = |run: &&PlannedRun| matches!(now.get(&run.name).map(|e| &e.status), Some(RunStatus::Failed(_)));
    Ok(Outcome::Done { failed: plan.runs.iter().filter(is_failed).count() })
}

/// The runs that are to be started or gone on with, in order.
fn to_do<'a>(
    plan: &'a SweepPlan,
    earlier: &BTreeMap<String, LogEntry>,
    retry_failed: bool,
) -> Result<Vec<&'a PlannedRun>, SweepError> {
    let (mut runs, mut changed) = (Vec::new(), Vec::new());
    for run in &plan.runs {
        let entry = earlier.get(&run.name).filter(|entry| {
            // Without its folder a run is begun anew, unless it never came to have one.
            has_entries(&run.folder) || matches!(entry.status, RunStatus::Failed(_)) && entry.settings == run.settings
        });
        match entry {
            None if has_entries(&run.folder) => return Err(SweepError::Foreign { path: run.folder.clone() }),
            None => runs.push(run),
            Some(entry) if entry.settings != run.settings => {
                changed.push(format!("{} ({})", run.name, differing_keys(&entry.settings, &run.settings)));
            }
            Some(entry) => match entry.status {
                RunStatus::Finished => {}
                RunStatus::Failed(_) if !retry_failed => {}
                RunStatus::Failed(_) | RunStatus::Started | RunStatus::Interrupted => runs.push(run),
            },
        }
    }
    if changed.is_empty() {
        return Ok(runs);
    }
    Err(SweepError::Changed { path: plan.file.path.clone(), output: plan.file.output.clone(), runs: changed })
}

fn differing_keys(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) -> String {
    let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let text = |value: Option<&String>| value.map_or("not set", String::as_str).to_owned();
    let differing = keys.into_iter().filter(|key| left.get(*key) != right.get(*key));
    let differing = differing.map(|key| format!("{key}: {} then, {} now", text(left.get(key)), text(right.get(key))));
    differing.collect::<Vec<_>>().join(", ")
}

fn tell_what_is_left_out(
    plan: &SweepPlan,
    earlier: &BTreeMap<String, LogEntry>,
    to_do: usize,
    observer: &mut dyn SweepObserver,
) {
    if plan.repeated > 0 {
        observer.note(&format!(
            "{} combinations differ from others only in keys that their method does not use, and are left out",
            plan.repeated
        ));
    }
    let failed = plan
        .runs
        .iter()
        .filter(|run| earlier.get(&run.name).is_some_and(|entry| matches!(entry.status, RunStatus::Failed(_))));
    let (done, failed) = (plan.runs.len() - to_do, failed.count());
    if done > 0 {
        let failed = if failed > 0 { format!(" ({failed} of them failed)") } else { String::new() };
        observer.note(&format!("{done} of {} runs were done before{failed}", plan.runs.len()));
    }
    let gone: Vec<&str> = earlier
        .keys()
        .filter(|name| !plan.runs.iter().any(|run| run.name == **name) && plan.file.output.join(name).exists())
        .map(String::as_str)
        .collect();
    if !gone.is_empty() {
        observer.note(&format!("runs in the folder that the sweep no longer has: {}", gone.join(", ")));
    }
}

/// Cores are shared among runs that do not say how many they take.
fn threads_of(run: &PlannedRun, jobs: NonZeroUsize) -> Option<usize> {
    let share = || available_parallelism().map_or(1, NonZeroUsize::get) / jobs.get();
    (run.threads.is_none() && jobs.get() > 1).then(|| share().max(1))
}

fn discard(folder: &Path) -> Result<(), SweepError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(SweepError::io(folder)(error)),
        _ => Ok(()),
    }
}

/// One sweep at a time works in a folder.
fn lock(folder: &Path) -> Result<File, SweepError> {
    let path = folder.join(LOCK);
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(SweepError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SweepError::Busy { path: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(SweepError::io(&path)(error)),
    }
}
