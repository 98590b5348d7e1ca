//! Atomic file writes: a temporary file in the same folder, then a rename.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::CliError;
use crate::paths;

/// A file being written. Dropping it before [`AtomicFile::commit`] removes it.
pub(crate) struct AtomicFile {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl AtomicFile {
    /// Starts writing the file at `path`; an existing file stays until [`AtomicFile::commit`].
    ///
    /// # Errors
    /// If the folder is not writable, or `path` exists and is not a regular file.
    pub(crate) fn create(path: &Path) -> Result<Self, CliError> {
        let path = &paths::expand(path);
        let fail = |source| CliError::Write { path: path.into(), source };
        // Keep a symbolic link and replace its target.
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.clone(),
            Err(error) => return Err(fail(error)),
        };
        // Renaming over /dev/null would replace it for the whole system.
        if fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file()) {
            let problem = "it exists and is not a regular file".to_string();
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, problem)));
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        builder.prefix(".kinglet-").suffix(".tmp");
        // The usual permissions of a new file: 0666 minus the umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder.unwrap_or(Path::new("."))).map_err(|error| {
            // Drop the message: it names the temporary file, which means nothing to the user.
            fail(error.kind().into())
        })?;
        Ok(Self { path: target, file: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Appends to the file.
    ///
    /// # Errors
    /// If writing fails, for example because the disk is full.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.file.write_all(bytes).map_err(|source| self.fail(source))
    }

    /// Moves the file to its final path.
    ///
    /// # Errors
    /// If flushing or renaming fails.
    pub(crate) fn commit(mut self) -> Result<(), CliError> {
        self.file.flush().map_err(|source| self.fail(source))?;
        let path = self.path;
        let fail = |source| CliError::Write { path: path.clone(), source };
        let file = self.file.into_inner().map_err(|error| fail(error.into_error()))?;
        file.as_file().sync_all().map_err(fail)?;
        file.persist(&path).map_err(|error| fail(error.error))?;
        Ok(())
    }

    fn fail(&self, source: io::Error) -> CliError {
        CliError::Write { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["file"]);
        let mut file = AtomicFile::create(&path).unwrap();
        file.write(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn only_regular_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(AtomicFile::create(folder.path()), Err(CliError::Write { .. })));
        let missing = folder.path().join("no/such/file");
        assert!(matches!(AtomicFile::create(&missing), Err(CliError::Write { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut file = AtomicFile::create(&link).unwrap();
        file.write(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
