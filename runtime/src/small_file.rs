//! Reading files of a model folder that are small by nature, whatever lies there in their stead.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::mounted;

/// Why a file was not read.
pub(crate) enum Failure {
    /// There is none.
    NotFound(io::Error),
    /// It can't be read, or is no regular file.
    Io(io::Error),
    /// It is larger than such a file can sensibly be: bytes, of which more may follow.
    TooLarge(u64),
}

/// All of a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let failure = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound(error),
        _ => Failure::Io(error),
    };
    if let Some(contents) = mounted::read(path, limit) {
        return contents.map_err(failure)?.map_err(Failure::TooLarge);
    }
    let metadata = std::fs::metadata(path).map_err(failure)?;
    // Asked before opening: to open a named pipe would wait for somebody to write to it.
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "it is a folder" } else { "it is no regular file" };
        return Err(Failure::Io(io::Error::new(io::ErrorKind::InvalidInput, what)));
    }
    if metadata.len() > limit {
        return Err(Failure::TooLarge(metadata.len()));
    }
    let mut contents = Vec::new();
    // The length is what the file had, and no bound on what comes out of it.
    let file = File::open(path).map_err(failure)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut contents).map_err(failure)?;
    match contents.len() as u64 {
        bytes if bytes > limit => Err(Failure::TooLarge(bytes)),
        _ => Ok(contents),
    }
}

/// Whether there is something by this name.
pub(crate) fn exists(path: &Path) -> bool {
    !matches!(read(path, 0), Err(Failure::NotFound(_)))
}
