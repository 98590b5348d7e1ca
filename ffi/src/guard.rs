//! The border: no panic crosses it, and every failure leaves a message on its thread.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::memory;
use crate::status::{Failure, kinglet_status};

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
    /// How many exported functions this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs an exported function.
pub(crate) fn call(run: impl FnOnce() -> Result<(), Failure>) -> kinglet_status {
    call_for(|| run().map(|()| kinglet_status::KINGLET_OK))
}

/// Runs an exported function that has more to say than that it went well.
pub(crate) fn call_for(run: impl FnOnce() -> Result<kinglet_status, Failure>) -> kinglet_status {
    quiet_panics();
    let _inside = Inside::enter();
    // What a panic may leave half-done is behind a mutex that is poisoned by it, or is not looked at again.
    let failure = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(status)) => return status,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(
            kinglet_status::KINGLET_INTERNAL,
            format!("a fault of Kinglet was caught: {}", panic_text(&*panic)),
        ),
    };
    // The payload of a panic may panic when it is dropped; the string has been taken from it.
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
    // While a thread ends, its message may be gone already.
    let _ = LAST_ERROR.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = message;
        }
    });
}

/// What went wrong in the last call on this thread that failed, as one line of UTF-8; the empty string if none has.
///
/// Never null. The text is Kinglet's and stays until the next call on the same thread that fails, or until the thread ends:
/// `kinglet_last_error_copy` keeps it. Other threads have their own. It is made for people; programs look at the status.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_last_error() -> *const c_char {
    let last = LAST_ERROR.try_with(|last| last.try_borrow().map(|last| last.as_ptr()));
    match last {
        Ok(Ok(text)) => text,
        _ => c"".as_ptr(),
    }
}

/// Copies what `kinglet_last_error` says to `buffer`, which has room for `size` bytes, and gives the length of the whole text without its NUL, as
/// `snprintf` does. What doesn't fit is left out, never half a character, and a NUL ends what is there. With `size` 0 `buffer` may be
/// null, and only the length is given. It can't fail, and leaves the text of `kinglet_last_error` as it is.
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

/// Counts a call for as long as it lives.
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

/// A panic would be printed on standard error before it is caught. Those of Kinglet's calls and threads go to the log
/// instead; others, of a Rust program around this library, are left to whoever had them before.
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
