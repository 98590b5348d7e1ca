//! All access through the caller's pointers, and memory that is lent to the caller.
//!
//! Only exported functions call these, with the C program's arguments. They detect null, misaligned
//! pointers and absurd lengths. That a pointer refers to what the header requires is the caller's
//! promise, which each function states.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::guard::call;
use crate::status::{Failure, kinglet_status};

/// Maximum length of a text, in bytes.
pub(crate) const MAX_TEXT: usize = 256 << 20;
/// Maximum number of tokens in a call.
pub(crate) const MAX_TOKENS: usize = 64 << 20;

fn null(name: &str) -> Failure {
    Failure::argument(format!("{name} is null"))
}

fn too_large(name: &str, count: usize, limit: usize) -> Failure {
    let message = format!("{name} is {count}; the maximum is {limit}");
    Failure::new(kinglet_status::KINGLET_TOO_LARGE, message)
}

/// Writes a result. The caller promises that `out` is null or writable.
pub(crate) fn write<T>(out: *mut T, name: &str, value: T) -> Result<(), Failure> {
    check_out(out, name)?;
    // SAFETY: not null and aligned; the rest is the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

/// Writes an optional result. The caller promises that `out` is null or writable.
pub(crate) fn write_optional<T>(out: *mut T, name: &str, value: T) -> Result<(), Failure> {
    if out.is_null() { Ok(()) } else { write(out, name, value) }
}

/// Checks that a result can be written. Call it before any work that would be lost.
pub(crate) fn check_out<T>(out: *mut T, name: &str) -> Result<(), Failure> {
    if out.is_null() {
        return Err(null(name));
    }
    if out.is_aligned() { Ok(()) } else { Err(Failure::argument(format!("{name} is not aligned"))) }
}

/// Reads the caller's elements; null is allowed if there are none. The caller promises that all
/// `count` exist and do not change.
pub(crate) fn slice<'a, T>(
    data: *const T,
    count: usize,
    limit: usize,
    name: &str,
) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null(name));
    }
    if count > limit {
        return Err(too_large(&format!("the number of {name}"), count, limit));
    }
    if !data.is_aligned() {
        return Err(Failure::argument(format!("{name} is not aligned")));
    }
    // SAFETY: not null, aligned, and within the limit; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, count) })
}

/// Copies elements to the caller. The caller promises room for `count` that nothing else uses.
pub(crate) fn copy_out<T: Copy>(
    out: *mut T,
    count: usize,
    values: &[T],
    name: &str,
) -> Result<(), Failure> {
    if count < values.len() {
        let message = format!("{name} has room for {count}; {} are needed", values.len());
        return Err(Failure::argument(message));
    }
    if values.is_empty() {
        return Ok(());
    }
    check_out(out, name)?;
    // SAFETY: not null and aligned, with room for `count` by the caller's promise; `values` is our
    // own memory, so the two don't overlap.
    unsafe { out.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    Ok(())
}

/// Copies as many whole characters as fit, and a NUL. The caller promises that `out` is null or has
/// room for `size` bytes.
pub(crate) fn copy_text(out: *mut c_char, size: usize, text: &str) {
    let Some(room) = size.checked_sub(1).filter(|_| !out.is_null()) else { return };
    let fits = (0..=room.min(text.len())).rev().find_map(|end| text.get(..end));
    let text = fits.unwrap_or_default();
    // SAFETY: not null, with room for `size` bytes by the caller's promise; text and NUL are no
    // longer than that.
    unsafe {
        out.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        out.add(text.len()).write(0);
    }
}

fn utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let message = format!("{name} is not UTF-8: invalid byte at offset {at}");
        Failure::new(kinglet_status::KINGLET_INVALID_UTF8, message)
    })
}

/// A text with a length. The caller promises that its bytes exist and do not change.
pub(crate) fn text<'a>(data: *const c_char, len: usize, name: &str) -> Result<&'a str, Failure> {
    utf8(slice(data.cast::<u8>(), len, MAX_TEXT, name)?, name)
}

/// A text that ends with a NUL. The caller promises the NUL.
pub(crate) fn string<'a>(data: *const c_char, name: &str) -> Result<&'a str, Failure> {
    if data.is_null() {
        return Err(null(name));
    }
    // SAFETY: not null; the caller promises the NUL.
    let bytes = unsafe { CStr::from_ptr(data) }.to_bytes();
    if bytes.len() > MAX_TEXT {
        return Err(too_large(name, bytes.len(), MAX_TEXT));
    }
    utf8(bytes, name)
}

/// A path: any bytes on Unix, UTF-8 elsewhere. The caller promises that it ends with a NUL.
pub(crate) fn path(data: *const c_char, name: &str) -> Result<PathBuf, Failure> {
    if data.is_null() {
        return Err(null(name));
    }
    #[cfg(unix)]
    let path = {
        use std::os::unix::ffi::OsStrExt;
        // SAFETY: not null; the caller promises the NUL.
        let bytes = unsafe { CStr::from_ptr(data) }.to_bytes();
        PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
    };
    #[cfg(not(unix))]
    let path = PathBuf::from(string(data, name)?);
    if path.as_os_str().is_empty() {
        return Err(Failure::argument(format!("{name} is empty")));
    }
    Ok(path)
}

/// Memory lent to callers, by address.
static LENT: Mutex<Option<HashMap<usize, Lent>>> = Mutex::new(None);

/// An allocation lent to the program. Only its address leaves this module, so nothing else refers
/// to it.
enum Lent {
    Bytes(*mut [u8]),
    Tokens(*mut [u32]),
}

// SAFETY: plain memory, freed by whoever removes it from the table.
unsafe impl Send for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        match *self {
            // SAFETY: made by `Box::into_raw` in `lend_bytes` and freed only here.
            Self::Bytes(bytes) => drop(unsafe { Box::from_raw(bytes) }),
            // SAFETY: made by `Box::into_raw` in `lend_tokens` and freed only here.
            Self::Tokens(tokens) => drop(unsafe { Box::from_raw(tokens) }),
        }
    }
}

fn lend(address: usize, lent: Lent) {
    let mut table = LENT.lock().unwrap_or_else(PoisonError::into_inner);
    table.get_or_insert_default().insert(address, lent);
}

/// Lends bytes to the caller, followed by a NUL.
pub(crate) fn lend_bytes(
    mut bytes: Vec<u8>,
    data: *mut *mut c_char,
    len: *mut usize,
) -> Result<(), Failure> {
    check_out(data, "the pointer for the result")?;
    write_optional(len, "the pointer for the length", bytes.len())?;
    bytes.push(0);
    let bytes = Box::into_raw(bytes.into_boxed_slice());
    lend(bytes.addr(), Lent::Bytes(bytes));
    write(data, "the pointer for the result", bytes.cast())
}

/// Lends tokens to the caller.
pub(crate) fn lend_tokens(
    mut tokens: Vec<u32>,
    data: *mut *mut u32,
    count: *mut usize,
) -> Result<(), Failure> {
    check_out(data, "the pointer for the tokens")?;
    write(count, "the pointer for the count", tokens.len())?;
    // Gives an empty list an address of its own.
    tokens.push(0);
    let tokens = Box::into_raw(tokens.into_boxed_slice());
    lend(tokens.addr(), Lent::Tokens(tokens));
    write(data, "the pointer for the tokens", tokens.cast())
}

/// Frees memory that a call returned: a text, tokens, the bytes of a saved session.
///
/// Null is allowed. Memory that was already freed, or did not come from Kinglet, is left alone and
/// returns `KINGLET_INVALID_HANDLE`. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_free(memory: *mut c_void) -> kinglet_status {
    call(|| {
        if memory.is_null() {
            return Ok(());
        }
        let mut table = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        let lent = table.as_mut().and_then(|table| table.remove(&memory.addr()));
        lent.map(drop).ok_or_else(|| {
            let message = "this memory was already freed, or does not come from Kinglet";
            Failure::new(kinglet_status::KINGLET_INVALID_HANDLE, message)
        })
    })
}
