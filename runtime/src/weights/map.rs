//! One file of a checkpoint: mapped read-only, held in a buffer, or read in parts.
//!
//! This is the only `unsafe` code for weights: the mapping itself. A mapping is sound only as long
//! as nobody writes to the file or truncates it. No system that Kinglet runs on lets a reader rule
//! that out, so the risk is documented:
//!
//! - If a mapped file is *truncated*, reading the lost pages faults (`SIGBUS` on Unix, an in-page
//!   error on Windows). [`Part::check_unchanged`] detects that before the read. Long passes call it
//!   as they go, which leaves only a small window.
//! - If a mapped file is *overwritten in place*, the weights change under the reader. The results
//!   are then wrong, but every bit pattern is a valid weight, so nothing worse follows.
//!
//! Programs that replace a checkpoint should write a new file and rename it over the old one, as
//! download tools do: a mapping keeps the old file alive.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use super::error::WeightsError;
use super::header::{MAX_HEADER, PREFIX};

/// A file that is neither mapped nor in memory, such as one in a browser. Its parts are read when
/// they are needed.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// If they can't all be read.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

/// The source of one safetensors file's bytes, for [`Weights::from_sources`].
///
/// [`Weights::from_sources`]: super::Weights::from_sources
#[derive(Debug)]
pub struct Source {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// From `offset`, to the end of the file if `len` is `None`.
    File {
        file: File,
        offset: u64,
        len: Option<u64>,
    },
    Bytes(Arc<Vec<u8>>),
    Reader {
        reader: Arc<dyn ReadAt>,
        len: u64,
    },
}

impl Source {
    /// A whole open file. `name` is used in errors.
    pub fn file(name: impl Into<String>, file: File) -> Self {
        Self { name: name.into(), kind: Kind::File { file, offset: 0, len: None } }
    }

    /// `len` bytes of an open file from `offset` on, such as an asset inside an application's
    /// package. The offset needs no alignment.
    pub fn region(name: impl Into<String>, file: File, offset: u64, len: u64) -> Self {
        Self { name: name.into(), kind: Kind::File { file, offset, len: Some(len) } }
    }

    /// Bytes in memory, for targets without a file system, such as a browser.
    pub fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self::shared(name, Arc::new(bytes))
    }

    /// A file of `len` bytes that `reader` reads in parts. Data that a backend keeps in the host's
    /// memory is read at once; data for a device passes through.
    pub fn reader(name: impl Into<String>, reader: Arc<dyn ReadAt>, len: u64) -> Self {
        Self { name: name.into(), kind: Kind::Reader { reader, len } }
    }

    /// Bytes in memory that are shared with others.
    pub fn shared(name: impl Into<String>, bytes: Arc<Vec<u8>>) -> Self {
        Self { name: name.into(), kind: Kind::Bytes(bytes) }
    }
}

/// The bytes of one safetensors file.
#[derive(Debug)]
pub(super) struct Part {
    name: String,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Mapped {
        map: Mmap,
        /// Kept open to check its length.
        file: File,
        /// The length that the file must keep for every mapped byte to exist.
        end: u64,
    },
    Owned(Arc<Vec<u8>>),
    Reader {
        reader: Arc<dyn ReadAt>,
        len: usize,
        /// The bytes before the tensors.
        head: Vec<u8>,
    },
}

impl Part {
    /// Maps the file, or takes over the buffer.
    pub(super) fn new(source: Source) -> Result<Self, WeightsError> {
        let name = source.name;
        let backing = match source.kind {
            Kind::Bytes(bytes) => Backing::Owned(bytes),
            Kind::Reader { reader, len } => read_head(&name, reader, len)?,
            Kind::File { file, offset, len } => map(&name, file, offset, len)?,
        };
        Ok(Self { name, backing })
    }

    /// The file's name in errors.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// All of its bytes, or only those before the tensors if the file is read in parts.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.backing {
            Backing::Mapped { map, .. } => map,
            Backing::Owned(bytes) => bytes,
            Backing::Reader { head, .. } => head,
        }
    }

    /// Its length, in memory or not.
    pub(super) fn len(&self) -> usize {
        match &self.backing {
            Backing::Reader { len, .. } => *len,
            _ => self.bytes().len(),
        }
    }

    /// Whether all of its bytes are accessible without reading.
    pub(super) fn is_resident(&self) -> bool {
        !matches!(self.backing, Backing::Reader { .. })
    }

    /// The bytes in `range`, read if necessary.
    pub(super) fn read(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, WeightsError> {
        let Backing::Reader { reader, len, .. } = &self.backing else {
            let bytes = self.bytes().get(range);
            debug_assert!(bytes.is_some(), "a range reaches past its file");
            return Ok(Cow::Borrowed(bytes.unwrap_or_default()));
        };
        let end = range.end.min(*len);
        let mut bytes = zeros(&self.name, end.saturating_sub(range.start))?;
        let read = reader.read_at(range.start as u64, &mut bytes);
        read.map_err(|source| self.io("read", source))?;
        Ok(Cow::Owned(bytes))
    }

    /// The same file, entirely in memory.
    pub(super) fn resident(&self) -> Result<Self, WeightsError> {
        let mut bytes = zeros(&self.name, self.len())?;
        if let Backing::Reader { reader, .. } = &self.backing {
            for (piece, at) in bytes.chunks_mut(PIECE).zip((0u64..).step_by(PIECE)) {
                reader.read_at(at, piece).map_err(|source| self.io("read", source))?;
            }
        } else {
            bytes.copy_from_slice(self.bytes());
        }
        Ok(Self::owned(self.name.clone(), bytes))
    }

    /// A part of bytes in memory.
    pub(super) fn owned(name: String, bytes: Vec<u8>) -> Self {
        Self { name, backing: Backing::Owned(Arc::new(bytes)) }
    }

    /// Fails if the file is now shorter than its mapping.
    pub(super) fn check_unchanged(&self) -> Result<(), WeightsError> {
        let Backing::Mapped { file, end, .. } = &self.backing else { return Ok(()) };
        let found = file.metadata().map_err(|source| self.io("read the length of", source))?.len();
        if found < *end {
            return Err(WeightsError::Shrunk { file: self.name.clone(), expected: *end, found });
        }
        Ok(())
    }

    /// Passes advice on the order of reads to the system. Does nothing on systems without such a
    /// call.
    #[cfg_attr(not(unix), allow(unused_variables))]
    pub(super) fn advise(&self, access: Access) -> Result<(), WeightsError> {
        #[cfg(unix)]
        if let Backing::Mapped { map, .. } = &self.backing {
            let advice = match access {
                Access::Normal => memmap2::Advice::Normal,
                Access::Sequential => memmap2::Advice::Sequential,
                Access::Random => memmap2::Advice::Random,
                Access::WillNeed => memmap2::Advice::WillNeed,
            };
            map.advise(advice).map_err(|source| self.io("advise on the mapping of", source))?;
        }
        Ok(())
    }

    /// Releases the memory of the bytes in `range`; touching them reads them again. For passes over
    /// weights larger than the memory. Does nothing on systems without such a call.
    #[cfg_attr(not(unix), allow(unused_variables))]
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Backing::Mapped { map, .. } = &self.backing
            && range.start < range.end
            && range.end <= map.len()
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the pages belong to a read-only mapping of a file and are within it. A
            // dropped page is filled from the file again when any thread touches it, just as the
            // first time. Nothing is lost, since nothing was written.
            let done = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
            if let Err(error) = done {
                log::debug!("{}: can't release pages: {error}", self.name);
            }
        }
    }

    fn io(&self, doing: &'static str, source: io::Error) -> WeightsError {
        WeightsError::Io { doing, path: self.name.clone().into(), source }
    }
}

/// The order in which weights will be read: a hint to the system, for [`Weights::advise`].
///
/// [`Weights::advise`]: super::Weights::advise
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No particular order, the default of a mapping.
    Normal,
    /// Once from front to back: read ahead a lot.
    Sequential,
    /// In random order, as experts are: do not read ahead.
    Random,
    /// All of it soon: start reading now.
    WillNeed,
}

/// Bytes requested from a reader at once.
const PIECE: usize = 4 << 20;

fn zeros(name: &str, len: usize) -> Result<Vec<u8>, WeightsError> {
    let mut bytes = Vec::new();
    let reserved = bytes.try_reserve_exact(len);
    reserved.map_err(|_| WeightsError::OutOfMemory { tensor: name.into(), bytes: len })?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Reads the bytes before the tensors. The parser reports what is wrong with them.
fn read_head(name: &str, reader: Arc<dyn ReadAt>, len: u64) -> Result<Backing, WeightsError> {
    let too_large = || WeightsError::TooLargeToMap { file: name.into(), len };
    let total = usize::try_from(len).map_err(|_| too_large())?;
    let io = |source| WeightsError::Io { doing: "read", path: name.into(), source };
    let mut prefix = [0; PREFIX];
    let prefix = prefix.get_mut(..total.min(PREFIX)).unwrap_or_default();
    reader.read_at(0, prefix).map_err(io)?;
    let header = prefix.first_chunk().map_or(0, |prefix| u64::from_le_bytes(*prefix));
    // For an invalid length keep the first bytes, which may show what the file is instead.
    let header = if header > MAX_HEADER { 64 } else { header as usize };
    let mut head = zeros(name, header.saturating_add(PREFIX).min(total))?;
    reader.read_at(0, &mut head).map_err(io)?;
    Ok(Backing::Reader { reader, len: total, head })
}

fn map(name: &str, file: File, offset: u64, len: Option<u64>) -> Result<Backing, WeightsError> {
    let io = |doing, source| WeightsError::Io { doing, path: name.into(), source };
    let metadata = file.metadata().map_err(|source| io("read the length of", source))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "not a regular file" };
        return Err(WeightsError::NotAFile { path: name.into(), what });
    }
    let file_len = metadata.len();
    let available = file_len.saturating_sub(offset);
    let len = len.unwrap_or(available);
    if len > available {
        return Err(WeightsError::Region { file: name.into(), offset, len, file_len });
    }
    let too_large = || WeightsError::TooLargeToMap { file: name.into(), len };
    let map_len = usize::try_from(len).map_err(|_| too_large())?;
    let mut options = MmapOptions::new();
    options.offset(offset).len(map_len);
    // SAFETY: the mapping is read-only and private to this module, its file is a regular file of at
    // least `offset + len` bytes, and slices of it never outlive it. Another process may still
    // truncate or rewrite the file; the module documentation says what happens then and what is
    // done about it.
    let map = unsafe { options.map(&file) }.map_err(|source| io("map", source))?;
    Ok(Backing::Mapped { map, file, end: offset.saturating_add(len) })
}
