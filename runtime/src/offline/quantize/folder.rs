//! A folder that appears whole or not at all.
//!
//! It is filled under another name beside its place, `.NAME.partial-PROCESS`, and renamed at the end, when all of it is on the disk. A
//! process that is killed leaves that folder behind; the next one that writes to the same place removes it. A file in it that its
//! process holds a lock on tells apart what is left over from what is still being written.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::error::QuantizeError;

/// The file that is locked while the folder is filled.
const LOCK: &str = ".lock";

/// Why a folder is not written to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// It is the folder of the model that is read, or one above or below it.
    Model,
    /// It has files in it.
    NotEmpty,
    /// It was to be replaced, but there is no checkpoint in it.
    NotACheckpoint,
    /// It is something else than a folder.
    NotAFolder,
    /// It has no name: a root, or `..`.
    NoName,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => {
                "is the model's own folder, or one above or below it: give another place to write to"
            }
            Self::NotEmpty => {
                "is not empty: give a new place to write to, or allow it to be replaced"
            }
            Self::NotACheckpoint => {
                "holds no checkpoint (config.json and model*.safetensors), and nothing else is replaced: \
                 remove it, or give another place"
            }
            Self::NotAFolder => "exists and is no folder",
            Self::NoName => "has no name that a new folder could be given",
        })
    }
}

/// A folder in the making. Dropped before [`StagedFolder::commit`], it leaves nothing behind.
#[derive(Debug)]
pub(super) struct StagedFolder {
    staging: PathBuf,
    place: PathBuf,
    /// Held locked.
    lock: Option<File>,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QuantizeError {
    let path = path.to_path_buf();
    move |source| QuantizeError::Io { doing, path, source }
}

/// Whether `place` can be written to: `model` is not touched, and what is there is nothing, an empty folder, or with `replace` a
/// checkpoint. Gives the place without links in its path.
pub(super) fn check(place: &Path, model: &Path, replace: bool) -> Result<PathBuf, QuantizeError> {
    let refuse = |problem| QuantizeError::Out { path: place.into(), problem };
    let model = fs::canonicalize(model).map_err(io_error("find", model))?;
    let resolved = match fs::canonicalize(place) {
        Ok(found) => {
            if !found.is_dir() {
                return Err(refuse(Refused::NotAFolder));
            }
            found
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(place).is_ok() {
                // A link to nothing: to rename over it would replace the link.
                return Err(refuse(Refused::NotAFolder));
            }
            let name = place.file_name().ok_or_else(|| refuse(Refused::NoName))?;
            resolve_missing(place.parent())?.join(name)
        }
        Err(error) => return Err(io_error("find", place)(error)),
    };
    if resolved.starts_with(&model) || model.starts_with(&resolved) {
        return Err(refuse(Refused::Model));
    }
    if resolved.file_name().is_none() {
        return Err(refuse(Refused::NoName));
    }
    if resolved.is_dir() {
        let names = names(&resolved)?;
        if !names.is_empty() && !replace {
            return Err(refuse(Refused::NotEmpty));
        }
        let has = |wanted: &dyn Fn(&str) -> bool| names.iter().any(|name| wanted(name));
        let checkpoint = has(&|name| name == "config.json")
            && has(&|name| name.starts_with("model") && name.ends_with(".safetensors"));
        if !names.is_empty() && !checkpoint {
            return Err(refuse(Refused::NotACheckpoint));
        }
    }
    Ok(resolved)
}

/// The absolute path of a folder of which the last parts need not exist.
fn resolve_missing(folder: Option<&Path>) -> Result<PathBuf, QuantizeError> {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::canonicalize(folder) {
        Ok(found) => Ok(found),
        Err(error) if error.kind() == ErrorKind::NotFound => match folder.file_name() {
            Some(name) => Ok(resolve_missing(folder.parent())?.join(name)),
            None => Err(io_error("find", folder)(error)),
        },
        Err(error) => Err(io_error("find", folder)(error)),
    }
}

fn names(folder: &Path) -> Result<Vec<String>, QuantizeError> {
    let entries = fs::read_dir(folder).map_err(io_error("list", folder))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map_err(io_error("list", folder))
}

impl StagedFolder {
    /// Begins the folder that will be `place`, which must have been [`check`]ed. Removes what killed processes left.
    pub(super) fn create(place: &Path) -> Result<Self, QuantizeError> {
        let refuse = || QuantizeError::Out { path: place.into(), problem: Refused::NoName };
        let parent = place.parent().ok_or_else(refuse)?;
        let name = place.file_name().ok_or_else(refuse)?.to_string_lossy().into_owned();
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
        let prefix = format!(".{name}.partial-");
        remove_leftovers(parent, &prefix);
        let process = std::process::id();
        for attempt in 0..100 {
            let staging = parent.join(format!("{prefix}{process}-{attempt}"));
            match fs::create_dir(&staging) {
                Ok(()) => {
                    let mut folder = Self { staging, place: place.into(), lock: None };
                    let path = folder.staging.join(LOCK);
                    let lock = File::create_new(&path).map_err(io_error("create", &path))?;
                    // Where there are no locks, a folder that is still being written may be taken for a leftover: no reason not to go on.
                    if let Err(error) = lock.try_lock() {
                        log::debug!("{}: {error}", path.display());
                    }
                    folder.lock = Some(lock);
                    return Ok(folder);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("create", &staging)(error)),
            }
        }
        Err(io_error("create", parent)(ErrorKind::AlreadyExists.into()))
    }

    /// Where its files are written.
    pub(super) fn path(&self) -> &Path {
        &self.staging
    }

    /// Puts the folder in its place; what was there goes. All files must have been synchronised with the disk.
    pub(super) fn commit(mut self) -> Result<(), QuantizeError> {
        let lock = self.staging.join(LOCK);
        self.lock = None;
        fs::remove_file(&lock).map_err(io_error("remove", &lock))?;
        sync_folder(&self.staging)?;
        let parent = self.place.parent().unwrap_or(Path::new("."));
        let mut old = None;
        if self.place.is_dir() && !names(&self.place)?.is_empty() {
            // There is no call that swaps two folders everywhere. Between these two renames the place is empty, never half.
            let aside = self.staging.with_extension("replaced");
            fs::rename(&self.place, &aside).map_err(io_error("move away", &self.place))?;
            old = Some(aside);
        } else if self.place.is_dir() {
            // Not every system renames over an empty folder.
            fs::remove_dir(&self.place).map_err(io_error("replace", &self.place))?;
        }
        if let Err(error) = fs::rename(&self.staging, &self.place) {
            if let Some(old) = &old {
                // What was there is better than nothing; if this fails as well, it is still beside its place.
                let _ = fs::rename(old, &self.place);
            }
            return Err(io_error("rename the new folder to", &self.place)(error));
        }
        sync_folder(parent)?;
        if let Some(old) = old
            && let Err(error) = fs::remove_dir_all(&old)
        {
            log::warn!("the replaced folder {} could not be removed: {error}", old.display());
        }
        Ok(())
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        self.lock = None;
        // After a commit it is not there any more.
        if let Err(error) = fs::remove_dir_all(&self.staging)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("{} could not be removed: {error}", self.staging.display());
        }
    }
}

/// Removes folders in `parent` that begin with `prefix` and whose process has ended.
fn remove_leftovers(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| {
            let rest = name.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
        });
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let dead = match File::open(path.join(LOCK)) {
            Ok(lock) => lock.try_lock().is_ok(),
            // It was killed on either side of the lock's life; or it is about to make it, which takes microseconds.
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        if dead && fs::remove_dir_all(&path).is_ok() {
            log::info!("removed {}, which an interrupted run left", path.display());
        }
    }
}

/// Has the entries of a folder written to the disk, where the system can be told to.
pub(super) fn sync_folder(folder: &Path) -> Result<(), QuantizeError> {
    if cfg!(unix) {
        let file = File::open(folder).map_err(io_error("open", folder))?;
        match file.sync_all() {
            // Some network file systems have no such call for folders.
            Err(error)
                if !matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::InvalidInput) =>
            {
                return Err(io_error("synchronise", folder)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
