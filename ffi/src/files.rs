//! Model files that are not in a folder: assets of an application package, open files, memory.

use std::ffi::{c_char, c_void};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use kinglet::ModelFiles;

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory;
use crate::status::{Failure, kinglet_status};

/// Model files, named as in a model folder, for `kinglet_model_open_files`. Required: `config.json`
/// and `model.safetensors` (or `model.safetensors.index.json` and its shards). For text:
/// `tokenizer.json` and `tokenizer_config.json`. For chat: `chat_template.jinja`, if the model has
/// one. For the model's own sampling settings: `generation_config.json`. Thread-safe.
pub struct kinglet_files;

#[derive(Default)]
pub(crate) struct Files(Mutex<ModelFiles>);

impl Object for Files {
    type Handle = kinglet_files;
    const NAME: &'static str = "list of files";
}

impl Files {
    /// Takes the files and leaves the list empty.
    pub(crate) fn take(&self) -> ModelFiles {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a second list of the same files.
    pub(crate) fn copy(&self) -> Result<ModelFiles, Failure> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.try_clone().map_err(|error| {
            let message = format!("can't duplicate a file descriptor: {error}");
            Failure::new(kinglet_status::KINGLET_IO, message)
        })
    }
}

/// Largest file that is copied into memory.
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
            return Err(Failure::argument("name must be a file name without a folder"));
        }
        change(&mut files.0.lock().unwrap_or_else(PoisonError::into_inner), name)
    })
}

/// Creates an empty list of files. Free it with `kinglet_files_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_files_create(files: *mut *mut kinglet_files) -> kinglet_status {
    call(|| {
        memory::check_out(files, "files")?;
        memory::write(files, "files", handle::insert(Arc::new(Files::default()))?)
    })
}

/// Deletes a list of files. Null is allowed. A model that was opened from it keeps what it needs.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_files_delete(files: *mut kinglet_files) -> kinglet_status {
    call(|| handle::delete::<Files>(files))
}

/// Adds `length` bytes of the open file `fd`, starting at `offset`. Neither needs any alignment.
/// Android's `AAsset_openFileDescriptor64` returns such a region for an asset that is stored
/// uncompressed.
///
/// The descriptor is duplicated: yours stays open and its position does not move. The file must not
/// change while the model is open. Unix only; other systems return `KINGLET_UNSUPPORTED`.
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
        return Err(Failure::argument(format!("{fd} is not a file descriptor")));
    }
    // SAFETY: `fd` is not -1 and is used only for `dup`, which fails if it is not open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let owned = borrowed.try_clone_to_owned().map_err(|error| {
        Failure::new(kinglet_status::KINGLET_IO, format!("file descriptor {fd}: {error}"))
    })?;
    Ok(File::from(owned))
}

#[cfg(not(unix))]
fn duplicate(_fd: i32) -> Result<File, Failure> {
    let message = "file descriptors are not supported on this system";
    Err(Failure::new(kinglet_status::KINGLET_UNSUPPORTED, message))
}

/// Adds a file from `length` bytes in memory. The bytes are copied, so prefer
/// `kinglet_files_add_fd` for weights.
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
            let message = format!("can't allocate a copy of {length} bytes");
            Failure::new(kinglet_status::KINGLET_OUT_OF_MEMORY, message)
        })?;
        copy.extend_from_slice(data);
        files.add_bytes(name, copy);
        Ok(())
    })
}
