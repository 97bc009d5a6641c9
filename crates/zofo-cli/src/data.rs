//! The rows that an argument names.

use crate::errors::Error;
use crate::progress::{Downloads, Messenger, display};
use std::ops::ControlFlow;
use std::path::Path;
use zofo::hf::hub::Hub;
use zofo::task::{DataSplit, Location, SplitFiles, Task, TaskError};

/// The folder that is looked into where none is named.
pub const DEFAULT: &str = "data";

/// Finds the files of a split at `place`, and downloads them if need be. Without a place it is the folder `data`, if there
/// is one, else the data set that the task names.
///
/// # Errors
/// There are none, or they cannot be downloaded.
pub fn locate(place: Option<&Path>, task: &Task, split: DataSplit, messenger: &Messenger) -> Result<SplitFiles, Error> {
    let default = Path::new(DEFAULT);
    let is_default = place.is_none() && (default.is_dir() || task.source().is_none());
    let mut location = Location::of(place.or(is_default.then_some(default)), task)?;
    let (mut display, mut downloads) = (display(messenger), Downloads::default());
    let files = location.files(task, &[split], &Hub::from_env(), &mut |progress| {
        downloads.show(display.as_mut(), progress);
        ControlFlow::Continue(())
    });
    display.clear();
    let files = files?;
    if let Location::Hub(data) = &location {
        tracing::info!(data = %data, rows = %data.rows(split), "data set of the hub");
    }
    files.into_iter().next().ok_or_else(|| TaskError::NoSource { task: task.name().to_owned() }.into())
}
