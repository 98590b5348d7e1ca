//! In-memory model folders: files inside an application's package, open files, buffers.
//!
//! Mounting [`ModelFiles`] gives them a path. Everything in this crate that reads a model folder
//! accepts it: the model, its tokenizer, its chat template. The path means nothing to the system,
//! and is invalid once the mount is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::weights::{ReadAt, Source};

/// The files of a model, by the names they would have in a folder (`config.json`,
/// `model.safetensors`, ...). A file in a subfolder has a name with `/` on every system:
/// `additional_chat_templates/rag.jinja`.
#[derive(Debug, Default)]
pub struct ModelFiles {
    files: BTreeMap<String, Stored>,
}

#[derive(Debug)]
enum Stored {
    Bytes(Arc<Vec<u8>>),
    Region { file: File, offset: u64, len: u64 },
    Reader { reader: Arc<dyn ReadAt>, len: u64 },
}

impl Stored {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Self::Region { file, offset, len } => {
                Self::Region { file: file.try_clone()?, offset: *offset, len: *len }
            }
            Self::Reader { reader, len } => Self::Reader { reader: reader.clone(), len: *len },
        })
    }
}

impl ModelFiles {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file whose contents are in memory, replacing any of the same name.
    pub fn add_bytes(&mut self, name: impl Into<String>, contents: Vec<u8>) {
        self.files.insert(name.into(), Stored::Bytes(Arc::new(contents)));
    }

    /// Adds `len` bytes of an open file from `offset` on, such as an asset stored uncompressed in
    /// an application's package. Replaces any file of the same name. The file's own position is
    /// neither used nor moved.
    pub fn add_region(&mut self, name: impl Into<String>, file: File, offset: u64, len: u64) {
        self.files.insert(name.into(), Stored::Region { file, offset, len });
    }

    /// Adds a file of `len` bytes that `reader` reads in parts. Replaces any file of the same name.
    pub fn add_reader(&mut self, name: impl Into<String>, reader: Arc<dyn ReadAt>, len: u64) {
        self.files.insert(name.into(), Stored::Reader { reader, len });
    }

    /// A copy of the list that shares open files and memory.
    ///
    /// # Errors
    /// If the system can't duplicate an open file.
    pub fn try_clone(&self) -> io::Result<Self> {
        let files = self.files.iter().map(|(name, stored)| Ok((name.clone(), stored.try_clone()?)));
        Ok(Self { files: files.collect::<io::Result<_>>()? })
    }

    /// Whether there is a file of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Gives the files a path for as long as the mount lives. A model that was opened from it keeps
    /// its weights.
    pub fn mount(self) -> Mounted {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("kinglet-files:{number}"));
        let mut table = MOUNTED.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(path.clone(), Arc::new(self));
        Mounted(path)
    }
}

static MOUNTED: RwLock<BTreeMap<PathBuf, Arc<ModelFiles>>> = RwLock::new(BTreeMap::new());

/// Keeps [`ModelFiles`] mounted at a path.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        MOUNTED.write().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// The files mounted at `folder`.
fn files_at(folder: &Path) -> Option<Arc<ModelFiles>> {
    MOUNTED.read().unwrap_or_else(PoisonError::into_inner).get(folder).cloned()
}

/// Whether files are mounted at `folder`.
pub(crate) fn is_mounted(folder: &Path) -> bool {
    files_at(folder).is_some()
}

/// The mounted files that `path` leads into, and the name of `path` among them.
fn find(path: &Path) -> Option<(Arc<ModelFiles>, String)> {
    let mut parts = path.iter();
    let files = files_at(Path::new(parts.next()?))?;
    let name: Vec<_> = parts.map(|part| part.to_string_lossy()).collect();
    Some((files, name.join("/")))
}

/// The names of the files mounted at `folder`; `None` if it is not mounted.
pub(crate) fn names(folder: &Path) -> Option<Vec<String>> {
    Some(files_at(folder)?.files.keys().cloned().collect())
}

/// Reads a mounted file, or returns its length if that exceeds `limit`. `None` if the path is not
/// mounted.
pub(crate) fn read(path: &Path, limit: u64) -> Option<io::Result<Result<Vec<u8>, u64>>> {
    let (files, name) = find(path)?;
    Some(match files.files.get(&name) {
        None => Err(io::ErrorKind::NotFound.into()),
        Some(Stored::Bytes(bytes)) if bytes.len() as u64 > limit => Ok(Err(bytes.len() as u64)),
        Some(Stored::Bytes(bytes)) => Ok(Ok(bytes.to_vec())),
        Some(Stored::Region { len, .. } | Stored::Reader { len, .. }) if *len > limit => {
            Ok(Err(*len))
        }
        Some(Stored::Reader { reader, len }) => read_all(&**reader, *len).map(Ok),
        Some(Stored::Region { file, offset, len }) => read_region(file, *offset, *len).map(Ok),
    })
}

/// Opens a mounted safetensors file; `None` if the folder is not mounted.
pub(crate) fn source(folder: &Path, name: &str) -> Option<io::Result<Option<Source>>> {
    let files = files_at(folder)?;
    Some(match files.files.get(name) {
        None => Ok(None),
        Some(Stored::Bytes(bytes)) => Ok(Some(Source::shared(name, bytes.clone()))),
        Some(Stored::Region { file, offset, len }) => {
            file.try_clone().map(|file| Some(Source::region(name, file, *offset, *len)))
        }
        Some(Stored::Reader { reader, len }) => {
            Ok(Some(Source::reader(name, reader.clone(), *len)))
        }
    })
}

fn read_all(reader: &dyn ReadAt, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    reader.read_at(0, &mut bytes)?;
    Ok(bytes)
}

fn read_region(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    // Check the region before allocating memory for it.
    let held = file.metadata()?.len();
    let end = offset.checked_add(len).filter(|&end| end <= held);
    if end.is_none() {
        let message =
            format!("{len} bytes at offset {offset} extend past the end of the file at {held}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    read_exact_at(file, &mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    let before = file.stream_position()?;
    file.seek(SeekFrom::Start(offset))?;
    let result = file.read_exact(bytes);
    file.seek(SeekFrom::Start(before))?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_like_a_folder_and_ends_with_its_guard() {
        let mut files = ModelFiles::new();
        files.add_bytes("a.json", b"{}".to_vec());
        files.add_bytes("folder/b.json", b"[]".to_vec());
        let mounted = files.mount();
        let path = mounted.path().join("a.json");
        assert_eq!(read(&path, 2).unwrap().unwrap(), Ok(b"{}".to_vec()));
        assert_eq!(read(&path, 1).unwrap().unwrap(), Err(2));
        assert!(read(&mounted.path().join("b.json"), 9).unwrap().is_err());
        assert!(source(mounted.path(), "a.json").unwrap().unwrap().is_some());
        assert!(source(mounted.path(), "b.json").unwrap().unwrap().is_none());
        let inner = mounted.path().join("folder").join("b.json");
        assert_eq!(read(&inner, 2).unwrap().unwrap(), Ok(b"[]".to_vec()));
        assert!(read(&mounted.path().join("folder"), 9).unwrap().is_err());
        assert_eq!(names(mounted.path()).unwrap(), ["a.json", "folder/b.json"]);
        drop(mounted);
        assert!(read(&path, 2).is_none());
    }

    #[test]
    fn a_second_list_stays_when_the_first_is_gone() {
        let mut files = ModelFiles::new();
        files.add_bytes("a.json", b"{}".to_vec());
        let second = files.try_clone().unwrap();
        drop(files.mount());
        let mounted = second.mount();
        assert_eq!(read(&mounted.path().join("a.json"), 2).unwrap().unwrap(), Ok(b"{}".to_vec()));
    }

    #[test]
    fn a_region_is_read_without_moving_the_file() {
        let path = std::env::temp_dir().join(format!("kinglet-region-{}", std::process::id()));
        std::fs::write(&path, b"0123456789").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_region(&file, 3, 4).unwrap(), b"3456");
        assert_eq!(read_region(&file, 10, 0).unwrap(), b"");
        for (offset, len) in [(3, 8), (11, 0), (u64::MAX, 2), (0, u64::MAX)] {
            let error = read_region(&file, offset, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset} {len}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
