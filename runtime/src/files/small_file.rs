//! Reads the small files of a model folder, with bounds on size and checks of what is really there.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::files::mounted;

/// Why a file was not read.
pub(crate) enum Failure {
    /// There is no such file.
    NotFound,
    /// It can't be read, or is not a regular file: a folder, a dangling link, a partial download.
    Io(io::Error),
    /// It exceeds the limit: the bytes known, of which there may be more.
    TooLarge(u64),
}

/// Endings that download programs append to the name of an unfinished file.
const UNFINISHED: [&str; 6] = ["incomplete", "part", "partial", "crdownload", "download", "aria2"];
/// Folders where the hub's client tracks its downloads into a folder, in current and older
/// versions.
const NOTES: [&str; 2] = [".cache/huggingface/download", ".huggingface/download"];

/// How a Git LFS pointer file begins.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let failure = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => Failure::NotFound,
        _ => Failure::Io(error),
    };
    if let Some(contents) = mounted::read(path, limit) {
        return contents.map_err(failure)?.map_err(Failure::TooLarge);
    }
    let metadata =
        std::fs::metadata(path).map_err(|error| match explain_missing(path, &error) {
            Some(what) => Failure::Io(io::Error::new(error.kind(), what)),
            None => failure(error),
        })?;
    // Check before opening: opening a named pipe would wait for a writer.
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "it is a folder" } else { "it is not a regular file" };
        return Err(Failure::Io(io::Error::new(ErrorKind::InvalidInput, what)));
    }
    if metadata.len() > limit {
        return Err(Failure::TooLarge(metadata.len()));
    }
    let mut contents = Vec::new();
    // The length is only a hint: the file may grow while it is read.
    let file = File::open(path).map_err(failure)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut contents).map_err(failure)?;
    match contents.len() as u64 {
        bytes if bytes > limit => Err(Failure::TooLarge(bytes)),
        _ if contents.starts_with(LFS_POINTER) => {
            let what = "it is a Git LFS pointer: run `git lfs pull` to fetch the file";
            Err(Failure::Io(io::Error::new(ErrorKind::InvalidData, what)))
        }
        _ => Ok(contents),
    }
}

/// Explains why the system finds no file: a dangling link, or an unfinished download.
pub(crate) fn explain_missing(path: &Path, error: &io::Error) -> Option<String> {
    if error.kind() != ErrorKind::NotFound {
        return None;
    }
    if let Ok(target) = std::fs::read_link(path) {
        return Some(format!(
            "it is a link to {}, which does not exist: the download may be incomplete",
            target.display()
        ));
    }
    let unfinished = unfinished(path)?;
    Some(format!("its download is unfinished ({} exists): download it again", unfinished.display()))
}

/// A trace of an unfinished download of a missing file.
fn unfinished(path: &Path) -> Option<PathBuf> {
    let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
    let mut beside = UNFINISHED.iter().map(|ending| format!("{name}.{ending}"));
    if let Some(found) = beside.find(|name| folder.join(name).exists()) {
        return Some(found.into());
    }
    // The client creates a lock before a download and metadata after it. The lock stays.
    NOTES.iter().find_map(|notes| {
        let lock = format!("{notes}/{name}.lock");
        let whole = folder.join(notes).join(format!("{name}.metadata")).exists();
        (!whole && folder.join(&lock).exists()).then(|| lock.into())
    })
}

/// Whether a file of this name is part of an unfinished download.
pub(crate) fn is_unfinished(name: &str) -> bool {
    UNFINISHED.iter().any(|ending| {
        name.strip_suffix(ending).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    })
}

/// Whether something of this name exists, even if unreadable.
pub(crate) fn exists(path: &Path) -> bool {
    !matches!(read(path, 0), Err(Failure::NotFound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_of_a_file_that_is_not() {
        let folder =
            std::env::temp_dir().join(format!("kinglet-unfinished-{}", std::process::id()));
        let notes = folder.join(NOTES[0]);
        std::fs::create_dir_all(&notes).unwrap();
        let path = folder.join("a.json");
        let problem = || match read(&path, 9) {
            Ok(_) => "read".to_string(),
            Err(Failure::NotFound) => "not found".into(),
            Err(Failure::Io(error)) => error.to_string(),
            Err(Failure::TooLarge(_)) => "too large".into(),
        };
        assert_eq!(problem(), "not found");
        std::fs::write(notes.join("a.json.lock"), "").unwrap();
        assert!(problem().contains("download/a.json.lock exists"), "{}", problem());
        // The file existed and was removed.
        std::fs::write(notes.join("a.json.metadata"), "").unwrap();
        assert_eq!(problem(), "not found");
        std::fs::write(folder.join("a.json.incomplete"), "").unwrap();
        assert!(problem().contains("unfinished (a.json.incomplete exists)"), "{}", problem());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../blobs/5", &path).unwrap();
            assert!(problem().contains("a link to ../blobs/5"), "{}", problem());
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::create_dir(&path).unwrap();
        assert_eq!(problem(), "it is a folder");
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(
            is_unfinished("a.json.part") && !is_unfinished("a.json") && !is_unfinished(".part")
        );
    }
}
