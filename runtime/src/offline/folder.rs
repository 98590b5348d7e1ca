//! A folder that appears whole or not at all.
//!
//! It is filled under a temporary name in the same parent, `.NAME.partial-PROCESS`, and renamed at
//! the end, when all of it is on the disk. A killed process leaves that folder; the next one that
//! writes to the same place removes it. A locked file in it tells a folder still in use from a
//! leftover one.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::quantize::QuantizeError;

/// The file that is locked while the folder is filled.
const LOCK: &str = ".lock";

/// Why a folder can't be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// It is the folder of the model being read, or a parent or child of it.
    Model,
    /// It is not empty.
    NotEmpty,
    /// It was to be replaced, but holds no checkpoint.
    NotACheckpoint,
    /// It is not a folder.
    NotAFolder,
    /// It has no name: it is a root, or `..`.
    NoName,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => {
                "is the model's own folder, or a parent or child of it: write to another folder"
            }
            Self::NotEmpty => {
                "is not empty: write to a new folder, or allow replacing it"
            }
            Self::NotACheckpoint => {
                "holds no checkpoint (config.json and model*.safetensors), and only a checkpoint is replaced: \
                 remove it, or write to another folder"
            }
            Self::NotAFolder => "exists and is not a folder",
            Self::NoName => "has no name for a new folder",
        })
    }
}

/// A folder that is being filled. Dropping it before [`StagedFolder::commit`] removes it.
#[derive(Debug)]
pub(in crate::offline) struct StagedFolder {
    staging: PathBuf,
    place: PathBuf,
    /// Locked while the folder is being filled.
    lock: Option<File>,
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QuantizeError {
    let path = path.to_path_buf();
    move |source| QuantizeError::Io { doing, path, source }
}

/// Checks that `place` can be written to: it must not touch `model`, if one is read, and must be missing, an empty
/// folder, or with `replace` a checkpoint. Returns the place without links in its path.
pub(in crate::offline) fn check(
    place: &Path,
    model: Option<&Path>,
    replace: bool,
) -> Result<PathBuf, QuantizeError> {
    let refuse = |problem| QuantizeError::Out { path: place.into(), problem };
    let canonical = |model: &Path| fs::canonicalize(model).map_err(io_error("find", model));
    let model = model.map(canonical).transpose()?;
    let resolved = match fs::canonicalize(place) {
        Ok(found) => {
            if !found.is_dir() {
                return Err(refuse(Refused::NotAFolder));
            }
            found
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(place).is_ok() {
                // A dangling link: renaming over it would replace the link.
                return Err(refuse(Refused::NotAFolder));
            }
            let name = place.file_name().ok_or_else(|| refuse(Refused::NoName))?;
            resolve_missing(place.parent())?.join(name)
        }
        Err(error) => return Err(io_error("find", place)(error)),
    };
    if model.is_some_and(|model| resolved.starts_with(&model) || model.starts_with(&resolved)) {
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

/// The absolute path of a folder whose last components may not exist.
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
    /// Creates the folder that will become `place`, which must have passed [`check`]. Removes what
    /// killed processes left.
    pub(in crate::offline) fn create(place: &Path) -> Result<Self, QuantizeError> {
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
                    // Without locks, a folder in use may be taken for a leftover. That is no reason
                    // to fail.
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

    /// The folder to write the files to.
    pub(in crate::offline) fn path(&self) -> &Path {
        &self.staging
    }

    /// Moves the folder to its place, replacing what was there. All files must have been synced to
    /// the disk.
    pub(in crate::offline) fn commit(mut self) -> Result<(), QuantizeError> {
        let lock = self.staging.join(LOCK);
        self.lock = None;
        fs::remove_file(&lock).map_err(io_error("remove", &lock))?;
        sync_folder(&self.staging)?;
        let parent = self.place.parent().unwrap_or(Path::new("."));
        let mut old = None;
        if self.place.is_dir() && !names(&self.place)?.is_empty() {
            // There is no portable call that swaps two folders. Between these two renames the place
            // is empty, never partial.
            let aside = self.staging.with_extension("replaced");
            fs::rename(&self.place, &aside).map_err(io_error("move away", &self.place))?;
            old = Some(aside);
        } else if self.place.is_dir() {
            // Some systems don't rename over an empty folder.
            fs::remove_dir(&self.place).map_err(io_error("replace", &self.place))?;
        }
        if let Err(error) = fs::rename(&self.staging, &self.place) {
            if let Some(old) = &old {
                // Restore what was there. If this fails too, it is still next to its place.
                let _ = fs::rename(old, &self.place);
            }
            return Err(io_error("rename the new folder to", &self.place)(error));
        }
        sync_folder(parent)?;
        if let Some(old) = old
            && let Err(error) = fs::remove_dir_all(&old)
        {
            log::warn!("can't remove the replaced folder {}: {error}", old.display());
        }
        Ok(())
    }
}

impl Drop for StagedFolder {
    fn drop(&mut self) {
        self.lock = None;
        // After a commit it is gone.
        if let Err(error) = fs::remove_dir_all(&self.staging)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("can't remove {}: {error}", self.staging.display());
        }
    }
}

/// Removes folders in `parent` whose names begin with `prefix` and whose process has ended.
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
            // The process was killed before it made the lock or after it removed it, or is about to
            // make it, which takes microseconds.
            Err(error) => error.kind() == ErrorKind::NotFound,
        };
        if dead && fs::remove_dir_all(&path).is_ok() {
            log::info!("removed {}, left by an interrupted run", path.display());
        }
    }
}

/// Syncs the entries of a folder to the disk, if the system can.
pub(in crate::offline) fn sync_folder(folder: &Path) -> Result<(), QuantizeError> {
    if cfg!(unix) {
        let file = File::open(folder).map_err(io_error("open", folder))?;
        match file.sync_all() {
            // Some network file systems can't sync folders.
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
