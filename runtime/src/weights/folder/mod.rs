//! Which folder a path to a model means, and what a path is that means none.
//!
//! A model is a folder with `config.json` and weights. Paths that people give are others as well: a repository in the hub's cache, which
//! has the folder in one of its `snapshots`; a file of the folder; the name that the model has on the hub; a folder of models. The
//! first is followed, the others are told in [`NotAModel`].

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

/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 100_000;

/// The folder that holds the files of the model at `path`: `path` itself, or for a repository in the hub's cache (`models--org--name`)
/// the snapshot that `refs/main` names, or the only one. Whether a model is in it is found out when it is opened.
///
/// # Errors
/// [`Error::NotAModel`] where nothing is at `path`, or a file, or a repository of which no snapshot, or none of several, can be
/// chosen.
pub fn resolve_folder(path: impl AsRef<Path>) -> Result<PathBuf, Error> {
    let path = path.as_ref();
    if mounted::is_mounted(path) {
        return Ok(path.into());
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(contents::of_file(path).into()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Err(nothing_at(path).into());
        }
        Err(source) => return Err(Error::Read { path: path.into(), source }),
    }
    if fs::symlink_metadata(path.join("config.json")).is_ok() {
        return Ok(path.into());
    }
    Ok(hub::snapshot(path)?.unwrap_or_else(|| path.into()))
}

/// What `folder` is, which has no `config.json`.
pub(crate) fn explain(folder: &Path) -> NotAModel {
    contents::of_folder(folder)
}

/// What to say of a path that nothing is at.
fn nothing_at(path: &Path) -> NotAModel {
    if let Ok(target) = fs::read_link(path) {
        return NotAModel::DanglingLink { path: path.into(), target };
    }
    if let Some(id) = hub::id(path) {
        return NotAModel::HubName { cached: hub::cached(&id), id };
    }
    let missing = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    // The first part of the path that is not there, where that is not the last one.
    let missing = missing.take_while(|folder| fs::symlink_metadata(folder).is_err()).last();
    NotAModel::Nowhere { path: path.into(), missing: missing.map(Path::to_path_buf) }
}

/// The names of what is in `folder`, sorted; none where it can't be listed.
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
