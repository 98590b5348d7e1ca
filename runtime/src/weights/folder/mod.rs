//! Resolves the path of a model to a folder, and explains paths that lead to none.
//!
//! A model is a folder with `config.json` and weights. Callers pass other paths as well: a
//! repository in the hub's cache, which has the folder in one of its `snapshots`; a file of the
//! folder; the model's name on the hub; a folder of models. The first is resolved, and
//! [`NotAModel`] explains the others.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

mod contents;
mod error;
mod hub;

pub(crate) use contents::other_weights;
pub use error::NotAModel;
pub(crate) use error::Place;

use crate::Error;
use crate::files::mounted;

/// Most entries of a folder that are listed.
const MAX_ENTRIES: usize = 100_000;

/// Resolves the folder of the model at `path`: `path` itself, or for a repository in the hub's
/// cache (`models--org--name`) the snapshot that `refs/main` names, or the only one. Does not check
/// that the folder holds a model.
///
/// # Errors
/// [`Error::NotAModel`] if nothing exists at `path`, it is a file, or it is a repository without a
/// snapshot or with no clear choice among several.
pub fn resolve_folder(path: impl AsRef<Path>) -> Result<PathBuf, Error> {
    let path = path.as_ref();
    if mounted::is_mounted(path) {
        return Ok(path.into());
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(contents::of_file(path).into()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(explain_nothing(path).into());
        }
        Err(source) => return Err(Error::Read { path: path.into(), source }),
    }
    if fs::symlink_metadata(path.join("config.json")).is_ok() {
        return Ok(path.into());
    }
    Ok(hub::snapshot(path)?.unwrap_or_else(|| path.into()))
}

/// Explains `folder`, which has no `config.json`.
pub(crate) fn explain(folder: &Path) -> NotAModel {
    contents::of_folder(folder)
}

/// Explains a path where nothing exists.
fn explain_nothing(path: &Path) -> NotAModel {
    if let Ok(target) = fs::read_link(path) {
        return NotAModel::DanglingLink { path: path.into(), target };
    }
    if let Some(id) = hub::id(path) {
        return NotAModel::HubName { cached: hub::cached(&id), id };
    }
    let missing = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    // The first parent that does not exist, if any.
    let missing = missing.take_while(|folder| fs::symlink_metadata(folder).is_err()).last();
    NotAModel::Nowhere { path: path.into(), missing: missing.map(Path::to_path_buf) }
}

/// The sorted names in `folder`; empty if it can't be listed.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    if let Some(names) = mounted::names(folder) {
        return names;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().take(MAX_ENTRIES).flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
