//! The model and the adapter that arguments name.

use crate::arguments::ModelArgument;
use crate::errors::Error;
use crate::progress::{Downloads, Messenger, display};
use burn::tensor::Device;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use zofo::hf::hub::{Hub, Located, Watcher, locate_adapter, locate_model};
use zofo::hf::{HfError, ModelFiles};
use zofo::peft::Adapter;

impl ModelArgument {
    /// As [`open`].
    pub fn open(&self, messenger: &Messenger) -> Result<ModelFiles, Error> {
        open(&self.name, messenger)
    }
}

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
    locate_by(locate_model, name, messenger)
}

/// Reads the adapter for a model that a path or a hub id names.
///
/// # Errors
/// There is none, it cannot be used, or it is for another model.
pub fn read_adapter(name: &Path, files: &ModelFiles, device: &Device, messenger: &Messenger) -> Result<Adapter, Error> {
    let folder = locate_by(locate_adapter, name, messenger)?;
    Ok(Adapter::read(&folder, files.config(), device)?)
}

fn locate_by(
    locate: fn(&Path, &Hub, Watcher<'_>) -> Result<Located, HfError>,
    name: &Path,
    messenger: &Messenger,
) -> Result<PathBuf, Error> {
    let (mut display, mut downloads) = (display(messenger), Downloads::default());
    let located = locate(name, &Hub::from_env(), &mut |progress| {
        downloads.show(display.as_mut(), progress);
        ControlFlow::Continue(())
    });
    display.clear();
    let located = located?;
    if let Some(id) = &located.id {
        tracing::info!(kind = %id.kind(), %id, path = %located.path.display(), "from the hub");
    }
    Ok(located.path)
}
