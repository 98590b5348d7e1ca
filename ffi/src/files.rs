//! The files of a model where there is no folder: assets of an application's package, open files, memory.

use std::ffi::{c_char, c_void};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use kinglet::ModelFiles;

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory;
use crate::status::{Failure, kinglet_status};

/// The files of a model by the names that they have in a model folder, for `kinglet_model_open_files`. Needed are
/// `config.json` and `model.safetensors` (or `model.safetensors.index.json` and its shards); for text `tokenizer.json` and
/// `tokenizer_config.json`; for chat `chat_template.jinja`, where the model has one; for its settings `generation_config.json`. Any thread may use it.
pub struct kinglet_files;

#[derive(Default)]
pub(crate) struct Files(Mutex<ModelFiles>);

impl Object for Files {
    type Handle = kinglet_files;
    const NAME: &'static str = "list of files";
}

impl Files {
    /// Takes the files out, which leaves none.
    pub(crate) fn take(&self) -> ModelFiles {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A second list of the same files.
    pub(crate) fn copy(&self) -> Result<ModelFiles, Failure> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.try_clone().map_err(|error| {
            let message = format!("a file descriptor can't be duplicated: {error}");
            Failure::new(kinglet_status::KINGLET_IO, message)
        })
    }
}

/// The largest file that is copied into memory.
const MAX_BYTES: usize = isize::MAX as usize;

fn add(
    files: *mut kinglet_files,
    name: *const c_char,
    change: impl FnOnce(&mut ModelFiles, &str) -> Result<(), Failure>,
) -> kinglet_status {
    call(|| {
        let files = handle::get::<Files>(files)?;
        let name = memory::string(name, "name")?;
        if name.is_empty() || name.contains(['/', '\\']) {
            return Err(Failure::argument("name must be that of a file, without a folder"));
        }
        change(&mut files.0.lock().unwrap_or_else(PoisonError::into_inner), name)
    })
}

/// A list without files. It is the program's: `kinglet_files_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_files_create(files: *mut *mut kinglet_files) -> kinglet_status {
    call(|| {
        memory::check_out(files, "files")?;
        memory::write(files, "files", handle::insert(Arc::new(Files::default()))?)
    })
}

/// Deletes a list of files. Null is fine. A model that was opened from it keeps what it needs.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_files_delete(files: *mut kinglet_files) -> kinglet_status {
    call(|| handle::delete::<Files>(files))
}

/// Adds `length` bytes of the open file `fd` from `offset` on; neither needs to be aligned to anything. This is what Android's
/// `AAsset_openFileDescriptor64` gives for an asset that is stored uncompressed.
///
/// The descriptor is duplicated: the program's own stays open, stays the program's, and its position is not moved. The file must stay as it is
/// while the model lives. Unix only: elsewhere `KINGLET_UNSUPPORTED`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_files_add_fd(
    files: *mut kinglet_files,
    name: *const c_char,
    fd: i32,
    offset: u64,
    length: u64,
) -> kinglet_status {
    add(files, name, |files, name| {
        files.add_region(name, duplicate(fd)?, offset, length);
        Ok(())
    })
}

#[cfg(unix)]
fn duplicate(fd: i32) -> Result<File, Failure> {
    if fd < 0 {
        return Err(Failure::argument(format!("{fd} is no file descriptor")));
    }
    // SAFETY: not -1, and used for `dup` alone, which finds out whether it is open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let owned = borrowed.try_clone_to_owned().map_err(|error| {
        Failure::new(kinglet_status::KINGLET_IO, format!("file descriptor {fd}: {error}"))
    })?;
    Ok(File::from(owned))
}

#[cfg(not(unix))]
fn duplicate(_fd: i32) -> Result<File, Failure> {
    let message = "file descriptors are not possible on this system";
    Err(Failure::new(kinglet_status::KINGLET_UNSUPPORTED, message))
}

/// Adds a file whose `length` bytes are in memory. They are copied: for small files, and where there is no other way.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_files_add_bytes(
    files: *mut kinglet_files,
    name: *const c_char,
    data: *const c_void,
    length: usize,
) -> kinglet_status {
    add(files, name, |files, name| {
        let data: &[u8] = memory::slice(data.cast(), length, MAX_BYTES, "data")?;
        let mut copy = Vec::new();
        copy.try_reserve_exact(data.len()).map_err(|_| {
            let message = format!("no memory for a copy of {length} bytes");
            Failure::new(kinglet_status::KINGLET_OUT_OF_MEMORY, message)
        })?;
        copy.extend_from_slice(data);
        files.add_bytes(name, copy);
        Ok(())
    })
}
