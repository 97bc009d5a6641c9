//! What a user calls a model, and where it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{super::error::HfError, Hub, id::HubId, progress::Watcher};

/// A model on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLocation {
    /// A model folder or a GGUF file, for [`ModelFiles::open`](crate::hf::ModelFiles::open).
    pub path: PathBuf,
    /// What it is on the hub, at its commit, if it was named by a hub id.
    pub id: Option<HubId>,
}

/// Finds the model that `name` names: the folder or file of that path, if there is one, else the model of the hub,
/// which is downloaded if the cache does not have it.
///
/// # Errors
/// There is no such path and `name` is no [`HubId`]; whatever [`Hub::fetch`] says.
pub fn locate_model(name: &Path, hub: &Hub, watcher: Watcher<'_>) -> Result<ModelLocation, HfError> {
    let source = match fs::metadata(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        // What else is wrong with it, opening it tells.
        _ => return Ok(ModelLocation { path: name.to_owned(), id: None }),
    };
    match hub_id(name) {
        Some(id) => {
            let fetched = hub.fetch(&id, watcher)?;
            Ok(ModelLocation { path: fetched.path, id: Some(fetched.id) })
        }
        None => Err(HfError::NoSuchModel { path: name.to_owned(), source }),
    }
}

/// Whether [`locate_model`] would look for `name` on the hub.
pub fn is_hub_id(name: &Path) -> bool {
    !name.exists() && hub_id(name).is_some()
}

fn hub_id(name: &Path) -> Option<HubId> {
    name.to_str()?.parse().ok()
}
