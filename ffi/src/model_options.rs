//! Options for opening a model.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use kinglet::{Backend, ModelOptions};

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory;
use crate::status::{Failure, kinglet_status};

/// Options for opening a model. New options hold the defaults. They are copied when a model is
/// opened and may be changed or deleted afterwards. Thread-safe.
pub struct kinglet_model_options;

/// Called while a model is opened, on the thread that opens it, with the number of bytes done and
/// in total. Return 0 to continue and any other value to cancel; opening then returns
/// `KINGLET_CANCELLED`. It must return normally: no exception, no `longjmp`.
pub type kinglet_progress_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> i32>;

/// User pointer, passed back to the program's callback.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) *mut c_void);

// SAFETY: it is only passed back. The header states on which threads.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

#[derive(Clone)]
pub(crate) struct OpenOptions {
    pub(crate) model: ModelOptions,
    /// Whether opening reads all weights into memory.
    pub(crate) fetch: bool,
    pub(crate) progress: kinglet_progress_callback,
    pub(crate) user: User,
    /// Size of a session's cache of earlier states, in bytes.
    pub(crate) cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            model: ModelOptions::new(),
            fetch: false,
            progress: None,
            user: User(std::ptr::null_mut()),
            cache_bytes: 256 << 20,
        }
    }
}

impl OpenOptions {
    /// Reports progress to the program; returns false to cancel.
    pub(crate) fn go_on(&self, done: u64, total: u64) -> bool {
        let Some(progress) = self.progress else { return true };
        // SAFETY: the header requires a function that can be called with this pointer.
        unsafe { progress(self.user.0, done, total) == 0 }
    }
}

#[derive(Default)]
pub(crate) struct Options(Mutex<OpenOptions>);

impl Object for Options {
    type Handle = kinglet_model_options;
    const NAME: &'static str = "model options";
}

/// A copy of the options of a handle; the defaults for null.
pub(crate) fn resolve(options: *const kinglet_model_options) -> Result<OpenOptions, Failure> {
    let Some(options) = handle::get_optional::<Options>(options)? else {
        return Ok(OpenOptions::default());
    };
    let options = options.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(options.clone())
}

fn set(
    options: *mut kinglet_model_options,
    change: impl FnOnce(&mut OpenOptions) -> Result<(), Failure>,
) -> kinglet_status {
    call(|| {
        let options = handle::get::<Options>(options)?;
        change(&mut options.0.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

/// Creates options with the defaults: the best backend, its own choice of threads, no context
/// limit. Free them with `kinglet_model_options_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_create(
    options: *mut *mut kinglet_model_options,
) -> kinglet_status {
    call(|| {
        memory::check_out(options, "options")?;
        memory::write(options, "options", handle::insert(Arc::new(Options::default()))?)
    })
}

/// Deletes options. Null is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_delete(
    options: *mut kinglet_model_options,
) -> kinglet_status {
    call(|| handle::delete::<Options>(options))
}

/// Sets the backend: `"auto"`, which uses a discrete or integrated GPU if there is one, `"cpu"`, or
/// a result of `kinglet_devices_backend`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_backend(
    options: *mut kinglet_model_options,
    backend: *const c_char,
) -> kinglet_status {
    set(options, |options| {
        options.model.backend = memory::string(backend, "backend")?.parse::<Backend>()?;
        Ok(())
    })
}

/// Sets the adapter of a GPU backend, as returned by `kinglet_devices_adapter`; -1, the default, is
/// the best one.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_adapter(
    options: *mut kinglet_model_options,
    adapter: i64,
) -> kinglet_status {
    set(options, |options| {
        options.model.adapter = match adapter {
            -1 => None,
            number => Some(usize::try_from(number).map_err(|_| {
                Failure::argument(format!(
                    "adapter {number}: must be -1 (the best adapter) or at least 0"
                ))
            })?),
        };
        Ok(())
    })
}

/// Sets a folder for caches that make the next start faster: compiled kernels and results of the
/// self-test. It must belong to the program alone. Null, the default, caches nothing.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_cache_dir(
    options: *mut kinglet_model_options,
    folder: *const c_char,
) -> kinglet_status {
    set(options, |options| {
        options.model.cache_dir = match folder.is_null() {
            true => None,
            false => Some(memory::string(folder, "folder")?.into()),
        };
        Ok(())
    })
}

/// Sets whether the kernels that a model needs are tested on small inputs before they run on a GPU
/// (1, the default), so that driver bugs are worked around or reported, or not (0).
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_self_test(
    options: *mut kinglet_model_options,
    test: i32,
) -> kinglet_status {
    set(options, |options| {
        options.model.self_test = test != 0;
        Ok(())
    })
}

/// Limits attention to the last `window` positions and the first `sinks`, which bounds the memory
/// of a session. 0 and 0, the default, for no limit.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_attention_window(
    options: *mut kinglet_model_options,
    window: usize,
    sinks: usize,
) -> kinglet_status {
    set(options, |options| {
        options.model.attention_window = Some(window).filter(|&window| window > 0);
        options.model.attention_sinks = sinks;
        Ok(())
    })
}

/// Sets the bits per element of the key/value cache: 32, the default, 8 or 4, which changes answers
/// a little. The cache shrinks to 28 or 16 %.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_kv_bits(
    options: *mut kinglet_model_options,
    bits: i32,
) -> kinglet_status {
    set(options, |options| {
        options.model.cache_type = bits.to_string().parse()?;
        Ok(())
    })
}

/// Sets the bits per element of recurrent states between steps: 32, the default, or 16. A GPU needs
/// 16-bit floats for that.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_state_bits(
    options: *mut kinglet_model_options,
    bits: i32,
) -> kinglet_status {
    set(options, |options| {
        options.model.state_type = bits.to_string().parse()?;
        Ok(())
    })
}

/// Sets the number of CPU threads, from 1 to 512. 0, the default, is one for each physical core.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_threads(
    options: *mut kinglet_model_options,
    threads: usize,
) -> kinglet_status {
    set(options, |options| {
        if threads > 512 {
            return Err(Failure::argument(format!("{threads} threads: the maximum is 512")));
        }
        options.model.threads = Some(threads).filter(|&threads| threads > 0);
        Ok(())
    })
}

/// Sets the maximum number of tokens computed in one step, from 1 to 65536, which bounds the
/// working memory. 0, the default, is 512 on the CPU and 2048 on a GPU.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_chunk(
    options: *mut kinglet_model_options,
    tokens: usize,
) -> kinglet_status {
    set(options, |options| {
        if tokens > 1 << 16 {
            return Err(Failure::argument(format!(
                "chunk of {tokens} tokens: the maximum is 65536"
            )));
        }
        options.model.chunk = Some(tokens).filter(|&tokens| tokens > 0);
        Ok(())
    })
}

/// Sets the maximum number of tokens of a session. 0, the default, is no limit.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_context_limit(
    options: *mut kinglet_model_options,
    tokens: usize,
) -> kinglet_status {
    set(options, |options| {
        options.model.context_limit = Some(tokens).filter(|&tokens| tokens > 0);
        Ok(())
    })
}

/// Sets whether tensors that the model does not use are an error (1) or only a warning in the log
/// (0, the default). Missing tensors are always an error.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_strict(
    options: *mut kinglet_model_options,
    strict: i32,
) -> kinglet_status {
    set(options, |options| {
        options.model.strict = strict != 0;
        Ok(())
    })
}

/// Sets whether the checkpoint's head for multi-token prediction is opened too (1), so that it can
/// draft tokens: `kinglet_generation_options_set_head_speculation`. A checkpoint without such a head
/// is then an error. 0 is the default.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_prediction_head(
    options: *mut kinglet_model_options,
    open: i32,
) -> kinglet_status {
    set(options, |options| {
        options.model.prediction_head = open != 0;
        Ok(())
    })
}

/// The inverse of the newer `kinglet_model_options_set_strict`: whether tensors that the model does
/// not use are only a warning in the log (1, the default) or an error (0).
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_allow_surplus(
    options: *mut kinglet_model_options,
    allow: i32,
) -> kinglet_status {
    set(options, |options| {
        options.model.strict = allow == 0;
        Ok(())
    })
}

/// Sets how many bytes of earlier states a session may keep, so that a prompt continues from the
/// longest prefix that was computed before. The default is 256 MiB; 0 keeps none.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_cache_bytes(
    options: *mut kinglet_model_options,
    bytes: usize,
) -> kinglet_status {
    set(options, |options| {
        options.cache_bytes = bytes;
        Ok(())
    })
}

/// Sets whether opening reads all weights into memory (1), so that the first answer doesn't wait
/// for them, or leaves them to be read when needed (0, the default), so that opening takes
/// milliseconds.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_fetch(
    options: *mut kinglet_model_options,
    fetch: i32,
) -> kinglet_status {
    set(options, |options| {
        options.fetch = fetch != 0;
        Ok(())
    })
}

/// Sets a callback that is called with `user` while a model is opened: at the beginning, at the
/// end, and, with `kinglet_model_options_set_fetch`, every 16 MiB. Null, the default, for none.
/// Kinglet only passes `user` back.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_progress(
    options: *mut kinglet_model_options,
    progress: kinglet_progress_callback,
    user: *mut c_void,
) -> kinglet_status {
    let user = User(user);
    set(options, move |options| {
        options.progress = progress;
        options.user = user;
        Ok(())
    })
}
