//! Snapshots in a folder for later runs: files of saved sessions. The least recently used are
//! deleted to make room.

use std::fs::{self, FileTimes};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::Error;
use crate::model::Model;
use crate::session::saved_state::{Heading, SavedStateError, read_heading};
use crate::session::{Snapshot, TokenList};

/// `kinglet-MODEL-TOKENS.safetensors`, with hashes in hexadecimal. No other file in the folder is
/// ever touched.
const PREFIX: &str = "kinglet-";
const SUFFIX: &str = ".safetensors";

/// A file in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    path: PathBuf,
    bytes: u64,
}

/// A file of this model, found when the folder was opened.
pub(super) struct Found {
    pub(super) tokens: TokenList,
    pub(super) has_logits: bool,
    pub(super) file: File,
}

/// The folder.
pub(super) struct Disk {
    model: Model,
    folder: PathBuf,
    max_bytes: u64,
    /// Prefix of the names of this model's files.
    prefix: String,
}

impl Disk {
    /// Opens the folder, creating it if needed, and lists this model's files, least recently used
    /// first.
    pub(super) fn open(
        model: &Model,
        folder: &Path,
        max_bytes: u64,
    ) -> Result<(Self, Vec<Found>), Error> {
        let prefix = format!("{PREFIX}{:016x}-", model.identity()?.short());
        let disk = Self { model: model.clone(), folder: folder.into(), max_bytes, prefix };
        fs::create_dir_all(folder).map_err(|source| disk.failed("make", source))?;
        let mut found = Vec::new();
        for (_, file) in disk.files()? {
            let name = file.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with(&disk.prefix) {
                continue;
            }
            match read_heading(model, &file.path) {
                Ok(Heading { tokens, has_logits }) => {
                    found.push(Found { tokens, has_logits, file })
                }
                Err(error) => log::warn!("ignoring a cached prefix: {error}"),
            }
        }
        Ok((disk, found))
    }

    fn failed(&self, doing: &'static str, source: std::io::Error) -> Error {
        let source = SavedStateError::Io { doing, source };
        Error::SavedState { path: Some(self.folder.clone()), source }
    }

    /// The files of all models with the time of their last use, least recently used first.
    fn files(&self) -> Result<Vec<(SystemTime, File)>, Error> {
        let entries = fs::read_dir(&self.folder).map_err(|source| self.failed("read", source))?;
        let mut files = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let ours = name
                .to_str()
                .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
            // A file may vanish in between, if another process makes room.
            if let (true, Ok(metadata)) = (ours, entry.metadata())
                && metadata.is_file()
            {
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                files.push((used, File { path: entry.path(), bytes: metadata.len() }));
            }
        }
        files.sort_by(|a, b| (a.0, &a.1.path).cmp(&(b.0, &b.1.path)));
        Ok(files)
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Bytes of this model's files.
    pub(super) fn bytes(&self) -> u64 {
        let of_model = |file: &File| {
            file.path
                .file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with(&self.prefix))
        };
        let files = self.files().unwrap_or_default();
        files.iter().filter(|(_, file)| of_model(file)).map(|(_, file)| file.bytes).sum()
    }

    /// Saves a snapshot, unless it is too large for the folder. Returns its file, and the files
    /// deleted to make room.
    pub(super) fn save(&mut self, snapshot: &Snapshot) -> Result<(Option<File>, Vec<File>), Error> {
        let needed = estimate(snapshot);
        if needed > self.max_bytes {
            return Ok((None, Vec::new()));
        }
        let removed = self.make_room(needed)?;
        // If two sequences share a name, one file replaces the other; reads compare the tokens in
        // it.
        let [low, high, ..] = snapshot.token_list().digest();
        let tokens = u64::from(high) << 32 | u64::from(low);
        let path = self.folder.join(format!("{}{tokens:016x}{SUFFIX}", self.prefix));
        snapshot.save(&path)?;
        let bytes = fs::metadata(&path).map_or(needed, |metadata| metadata.len());
        Ok((Some(File { path, bytes }), removed))
    }

    fn make_room(&self, needed: u64) -> Result<Vec<File>, Error> {
        let files = self.files()?;
        let mut total: u64 = files.iter().map(|(_, file)| file.bytes).sum();
        let mut removed = Vec::new();
        for (_, file) in files {
            if total.saturating_add(needed) <= self.max_bytes {
                break;
            }
            total = total.saturating_sub(file.bytes);
            self.remove(&file);
            removed.push(file);
        }
        Ok(removed)
    }

    /// Loads a file and marks it as used.
    pub(super) fn load(&mut self, file: &File) -> Result<Snapshot, Error> {
        let session = self.model.load_session(&file.path)?.session;
        let now = FileTimes::new().set_modified(SystemTime::now());
        let marked =
            fs::File::options().append(true).open(&file.path).and_then(|f| f.set_times(now));
        if let Err(error) = marked {
            log::debug!("{}: {error}", file.path.display());
        }
        session.snapshot()
    }

    pub(super) fn remove(&self, file: &File) {
        if let Err(error) = fs::remove_file(&file.path) {
            log::debug!("{}: {error}", file.path.display());
        }
    }
}

/// Approximate size of a snapshot's file, in bytes.
pub(super) fn estimate(snapshot: &Snapshot) -> u64 {
    let header = 512 * (1 + snapshot.model().plan().states.len());
    (snapshot.state_bytes() + snapshot.own_bytes() + header) as u64
}
