//! The boundary to C: no panic crosses it, and every failure stores a message for its thread.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::memory;
use crate::status::{Failure, kinglet_status};

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
    /// Nesting depth of exported functions on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs an exported function.
pub(crate) fn call(run: impl FnOnce() -> Result<(), Failure>) -> kinglet_status {
    call_for(|| run().map(|()| kinglet_status::KINGLET_OK))
}

/// Runs an exported function that has several statuses of success.
pub(crate) fn call_for(run: impl FnOnce() -> Result<kinglet_status, Failure>) -> kinglet_status {
    quiet_panics();
    let _inside = Inside::enter();
    // State that a panic may leave half-written is in a mutex, which it poisons, or is not used
    // again.
    let failure = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(status)) => return status,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(
            kinglet_status::KINGLET_INTERNAL,
            format!("internal error (please report it): {}", panic_text(&*panic)),
        ),
    };
    // Dropping the payload of a panic may panic; its string is already copied.
    remember(&failure.message);
    failure.status
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn remember(message: &str) {
    let bytes: Vec<u8> = message.bytes().filter(|&byte| byte != 0).collect();
    let message = CString::new(bytes).unwrap_or_default();
    // Thread-local storage may already be destroyed while a thread ends.
    let _ = LAST_ERROR.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = message;
        }
    });
}

/// Returns the message of the last call that failed on this thread, one line of UTF-8; the empty
/// string if none has.
///
/// Never null. The text belongs to Kinglet and is valid until the next failure on the same thread,
/// or until the thread ends; `kinglet_last_error_copy` keeps it. Each thread has its own. The
/// message is for people: programs check the status.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_last_error() -> *const c_char {
    let last = LAST_ERROR.try_with(|last| last.try_borrow().map(|last| last.as_ptr()));
    match last {
        Ok(Ok(text)) => text,
        _ => c"".as_ptr(),
    }
}

/// Copies the text of `kinglet_last_error` to `buffer`, which has room for `size` bytes, and
/// returns the length of the whole text without its NUL, like `snprintf`. A text that does not fit
/// is cut at a character boundary. The copy ends with a NUL. With `size` 0 `buffer` may be null,
/// and only the length is returned. This function can't fail and does not change the text of
/// `kinglet_last_error`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_last_error_copy(buffer: *mut c_char, size: usize) -> usize {
    let copy = LAST_ERROR.try_with(|last| {
        let last = last.try_borrow().ok()?;
        let text = last.to_str().unwrap_or_default();
        memory::copy_text(buffer, size, text);
        Some(text.len())
    });
    copy.ok().flatten().unwrap_or_else(|| {
        memory::copy_text(buffer, size, "");
        0
    })
}

/// Counts an exported call while it runs.
struct Inside;

impl Inside {
    fn enter() -> Self {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get().saturating_add(1)));
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}

/// Sends panics of Kinglet's calls and threads to the log instead of standard error. Other panics,
/// of a Rust program that uses this library, go to the previous hook.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let inside = DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false);
            let thread = std::thread::current();
            let ours = inside || thread.name().is_some_and(|name| name.starts_with("kinglet-"));
            if ours {
                log::error!("caught: {info}");
            } else {
                before(info);
            }
        }));
    });
}
