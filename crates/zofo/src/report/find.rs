//! Which runs a folder stands for.

use super::error::ReportError;
use super::format::toml_text;
use super::run::Run;
use crate::run::folder::{CONFIG, METRICS};
use crate::sweep::{RunStatus, SweepLog, log_file};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Reads the runs of folders, each that of a run or of a sweep. Names tell runs apart; those of several sweeps have the
/// sweep's name before them.
///
/// # Errors
///
/// [`ReportError::NoRuns`] for a folder without any, [`ReportError::Read`] for one that cannot be read.
pub fn find(folders: &[PathBuf]) -> Result<Vec<Run>, ReportError> {
    let mut runs = Vec::new();
    for folder in folders {
        let is_run = folder.join(CONFIG).exists() || folder.join(METRICS).exists();
        let found = if is_run { vec![Run::read(folder, &name_of(folder))] } else { runs_in(folder)? };
        if found.is_empty() {
            return Err(ReportError::NoRuns { path: folder.clone() });
        }
        runs.push((folder, is_run, found));
    }
    let mut uses = BTreeMap::new();
    for run in runs.iter().flat_map(|(.., found)| found) {
        *uses.entry(run.name.clone()).or_insert(0) += 1;
    }
    let mut named = Vec::new();
    for (folder, is_run, found) in runs {
        for mut run in found {
            if uses.get(&run.name).is_some_and(|&uses| uses > 1) {
                run.name =
                    if is_run { folder.display().to_string() } else { format!("{}/{}", name_of(folder), run.name) };
            }
            named.push(run);
        }
    }
    Ok(named)
}

/// The runs of a sweep's folder, by name, with those that failed before they had a folder.
///
/// # Errors
///
/// [`ReportError::Read`] if it cannot be read.
pub fn runs_in(folder: &Path) -> Result<Vec<Run>, ReportError> {
    let failed = |source| ReportError::Read { path: folder.to_owned(), source };
    let mut runs = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.join(CONFIG).exists() || path.join(METRICS).exists() {
            let name = name_of(&path);
            runs.insert(name.clone(), Run::read(&path, &name));
        }
    }
    // A sweep whose record cannot be read still has its runs.
    for (name, entry) in SweepLog::read(folder).unwrap_or_default() {
        let RunStatus::Failed(reason) = &entry.status else { continue };
        let path = folder.join(&name);
        let log = fs::read(log_file(folder, &name)).unwrap_or_default();
        let settings = entry.settings.into_iter().map(|(key, value)| (key, as_written(value))).collect();
        runs.insert(name.clone(), Run::failed(&path, &name, settings, reason, &String::from_utf8_lossy(&log)));
    }
    Ok(runs.into_values().collect())
}

/// A value as the reader of `config.toml` gives it: the record has it as TOML, with quotes.
fn as_written(value: String) -> String {
    value.parse().map_or(value, |value: toml::Value| toml_text(&value))
}

fn name_of(folder: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // `.` and `runs/..` have no name of their own.
    let absolute = || name(&folder.canonicalize().ok()?);
    name(folder).or_else(absolute).unwrap_or_else(|| folder.display().to_string())
}
