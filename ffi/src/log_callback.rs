//! Log messages, passed to the program's own log.

use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Once, PoisonError, RwLock};

use crate::guard::call;
use crate::model_options::User;
use crate::status::{Failure, kinglet_status};

/// Severity of a log message.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_log_level {
    /// No messages.
    KINGLET_LOG_OFF = 0,
    /// Errors.
    KINGLET_LOG_ERROR = 1,
    /// Possible problems.
    KINGLET_LOG_WARN = 2,
    /// Progress.
    KINGLET_LOG_INFO = 3,
    /// Details for developers.
    KINGLET_LOG_DEBUG = 4,
}

/// Called with a message and its `enum kinglet_log_level`, on any thread and possibly on several at
/// once. The text is UTF-8 and valid until the callback returns. It must return normally (no
/// exception, no `longjmp`) and must not call `kinglet_log_set`.
pub type kinglet_log_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, level: u32, message: *const c_char)>;

#[derive(Clone, Copy)]
struct Target {
    callback: unsafe extern "C" fn(*mut c_void, u32, *const c_char),
    user: User,
}

static TARGET: RwLock<Option<Target>> = RwLock::new(None);

thread_local! {
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        // A message caused by the callback itself would call it again.
        if !self.enabled(record.metadata()) || CALLING.try_with(Cell::get).unwrap_or(true) {
            return;
        }
        // Locked during the call, so that `kinglet_log_set` returns only after it.
        let target = TARGET.read().unwrap_or_else(PoisonError::into_inner);
        let Some(Target { callback, user }) = *target else { return };
        let text = record.args().to_string().replace('\0', "");
        let Ok(text) = CString::new(text) else { return };
        let _ = CALLING.try_with(|calling| calling.set(true));
        // SAFETY: the header requires a function that can be called with this pointer on any
        // thread.
        unsafe { callback(user.0, record.level() as u32, text.as_ptr()) };
        let _ = CALLING.try_with(|calling| calling.set(false));
    }

    fn flush(&self) {}
}

/// Sets the log callback of the process: messages up to `level` (an `enum kinglet_log_level`) go to
/// `callback` with `user`. Null, the default, disables the log. Kinglet itself never writes to
/// standard output or standard error.
///
/// When this returns, no earlier callback is running or will be called. Any thread may call it, but
/// the callback itself gets `KINGLET_BUSY`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_log_set(
    callback: kinglet_log_callback,
    user: *mut c_void,
    level: u32,
) -> kinglet_status {
    let user = User(user);
    call(move || {
        let level = match level {
            0 => log::LevelFilter::Off,
            1 => log::LevelFilter::Error,
            2 => log::LevelFilter::Warn,
            3 => log::LevelFilter::Info,
            4 => log::LevelFilter::Debug,
            other => return Err(Failure::argument(format!("{other} is not a log level"))),
        };
        if CALLING.try_with(Cell::get).unwrap_or(false) {
            let message = "the log callback can't replace itself";
            return Err(Failure::new(kinglet_status::KINGLET_BUSY, message));
        }
        static LOGGER: Once = Once::new();
        // Fails in a Rust program that already has a logger; messages then go there.
        LOGGER.call_once(|| drop(log::set_logger(&Logger)));
        let target = callback.map(|callback| Target { callback, user: { user } });
        *TARGET.write().unwrap_or_else(PoisonError::into_inner) = target;
        log::set_max_level(if target.is_some() { level } else { log::LevelFilter::Off });
        Ok(())
    })
}
