//! The model that an argument names.

use crate::errors::Error;
use crate::progress::{Downloads, Messenger, display};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use zofo::hf::ModelFiles;
use zofo::hf::hub::{Hub, locate_model};

/// Opens the model that a path or a hub id names.
///
/// # Errors
/// There is none, or it cannot be used.
pub fn open(name: &Path, messenger: &Messenger) -> Result<ModelFiles, Error> {
    Ok(ModelFiles::open(&locate(name, messenger)?)?)
}

/// Finds the model that a path or a hub id names, and downloads it if need be.
///
/// # Errors
/// There is none, or it cannot be downloaded.
pub fn locate(name: &Path, messenger: &Messenger) -> Result<PathBuf, Error> {
    let (mut display, mut downloads) = (display(messenger), Downloads::default());
    let location = locate_model(name, &Hub::from_env(), &mut |progress| {
        downloads.show(display.as_mut(), progress);
        ControlFlow::Continue(())
    });
    display.clear();
    let location = location?;
    if let Some(id) = &location.id {
        tracing::info!(model = %id, path = %location.path.display(), "model of the hub");
    }
    Ok(location.path)
}
