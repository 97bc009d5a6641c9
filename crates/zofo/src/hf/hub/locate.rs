//! What a user calls a model or an adapter, and where it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    super::error::HfError,
    Hub,
    id::{HubId, NotAHubId},
    progress::Watcher,
};

/// A model or an adapter on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// A model folder or a GGUF file, for [`ModelFiles::open`](crate::hf::ModelFiles::open), or an adapter folder, for
    /// [`Adapter::read`](crate::peft::Adapter::read).
    pub path: PathBuf,
    /// What it is on the hub, at its commit, if it was named by a hub id.
    pub id: Option<HubId>,
}

/// Finds the model that `name` names: the folder or file of that path, if there is one, else the model of the hub,
/// which is downloaded if the cache does not have it.
///
/// # Errors
/// There is no such path and `name` is no [`HubId`]; whatever [`Hub::fetch`] says.
pub fn locate_model(name: &Path, hub: &Hub, watcher: Watcher<'_>) -> Result<Located, HfError> {
    locate(name, str::parse, hub, watcher, |path, source| HfError::NoSuchModel { path, source })
}

/// Finds the adapter that `name` names: the folder of that path, if there is one, else the adapter of the hub,
/// `org/name[@revision]`, which is downloaded if the cache does not have it.
///
/// # Errors
/// There is no such path and `name` is no [`HubId::adapter`]; whatever [`Hub::fetch`] says.
pub fn locate_adapter(name: &Path, hub: &Hub, watcher: Watcher<'_>) -> Result<Located, HfError> {
    locate(name, HubId::adapter, hub, watcher, |path, source| HfError::NoSuchAdapter { path, source })
}

fn locate(
    name: &Path,
    parse: fn(&str) -> Result<HubId, NotAHubId>,
    hub: &Hub,
    watcher: Watcher<'_>,
    nowhere: fn(PathBuf, io::Error) -> HfError,
) -> Result<Located, HfError> {
    let source = match fs::metadata(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        // What else is wrong with it, opening it tells.
        _ => return Ok(Located { path: name.to_owned(), id: None }),
    };
    match name.to_str().and_then(|name| parse(name).ok()) {
        Some(id) => {
            let fetched = hub.fetch(&id, watcher)?;
            Ok(Located { path: fetched.path, id: Some(fetched.id) })
        }
        None => Err(nowhere(name.to_owned(), source)),
    }
}

/// Whether [`locate_model`] would look for `name` on the hub.
pub fn is_hub_id(name: &Path) -> bool {
    !name.exists() && name.to_str().is_some_and(|name| name.parse::<HubId>().is_ok())
}
