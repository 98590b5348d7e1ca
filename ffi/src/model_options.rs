//! How a model is opened.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use kinglet::{Backend, ModelOptions};

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory;
use crate::status::{Failure, kinglet_status};

/// How a model is opened. New options hold the defaults. They are copied when a model is opened, so that they can be changed
/// and deleted afterwards. Any thread may use them.
pub struct kinglet_model_options;

/// Called while a model is opened, on the thread that opens it, with the bytes done and the bytes in all. Returns 0 to go on; anything
/// else cancels, and opening returns `KINGLET_CANCELLED`. It must return: no exception, no `longjmp`.
pub type kinglet_progress_callback =
    Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> i32>;

/// The pointer that a program wants back in its callback.
#[derive(Clone, Copy)]
pub(crate) struct User(pub(crate) *mut c_void);

// SAFETY: it is only handed back. On which threads that happens is in the header.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

#[derive(Clone)]
pub(crate) struct OpenOptions {
    pub(crate) model: ModelOptions,
    /// Whether the weights are read into memory when the model is opened.
    pub(crate) fetch: bool,
    pub(crate) progress: kinglet_progress_callback,
    pub(crate) user: User,
    /// Bytes that a session keeps to go back to.
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
    /// Tells the program how far it is; false to stop.
    pub(crate) fn go_on(&self, done: u64, total: u64) -> bool {
        let Some(progress) = self.progress else { return true };
        // SAFETY: the header asks for a function that can be called with this pointer.
        unsafe { progress(self.user.0, done, total) == 0 }
    }
}

#[derive(Default)]
pub(crate) struct Options(Mutex<OpenOptions>);

impl Object for Options {
    type Handle = kinglet_model_options;
    const NAME: &'static str = "model options";
}

/// A copy of the options that a handle means; the defaults for null.
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

/// Options with the defaults: the best backend, its own choice of threads, no limit of the context.
///
/// They are the program's: `kinglet_model_options_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_create(
    options: *mut *mut kinglet_model_options,
) -> kinglet_status {
    call(|| {
        memory::check_out(options, "options")?;
        memory::write(options, "options", handle::insert(Arc::new(Options::default()))?)
    })
}

/// Deletes options. Null is fine.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_delete(
    options: *mut kinglet_model_options,
) -> kinglet_status {
    call(|| handle::delete::<Options>(options))
}

/// Which backend computes: `"auto"`, which takes a discrete or integrated graphics adapter if there is one, `"cpu"`, or what `kinglet_devices_backend` gave.
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

/// Which adapter a backend for graphics cards takes, as `kinglet_devices_adapter` gave it; -1, the default, is the best one.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_adapter(
    options: *mut kinglet_model_options,
    adapter: i64,
) -> kinglet_status {
    set(options, |options| {
        options.model.adapter = match adapter {
            -1 => None,
            number => Some(usize::try_from(number).map_err(|_| {
                Failure::argument(format!("adapter {number}: they are counted from 0"))
            })?),
        };
        Ok(())
    })
}

/// A folder of the program's own where what makes the next start faster is kept: kernels that a driver has compiled, and what was
/// found out about it. Null, the default, keeps nothing.
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

/// Whether the kernels that a model needs are tested on small inputs before they are used on a graphics card (1, the default), so that
/// a driver's faults are worked around or told, or not (0).
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

/// Lets attention see the last `window` positions and the first `sinks` only, so that the memory of a session stays bounded; 0 and 0, the
/// default, for all.
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

/// How many bits each number of the keys and values takes that attention keeps: 32, the default, 8, or 4, which shows in the answers a little.
/// Their share of a session's memory falls to 28 or 16 %.
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

/// How many bits each number of the states takes that recurrent layers keep between steps: 32, the default, or 16. A graphics card must
/// have 16-bit floats for that.
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

/// How many threads compute on the CPU, from 1 to 512; 0, the default, is one for each physical core.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_threads(
    options: *mut kinglet_model_options,
    threads: usize,
) -> kinglet_status {
    set(options, |options| {
        if threads > 512 {
            return Err(Failure::argument(format!("{threads} threads: at most 512 are possible")));
        }
        options.model.threads = Some(threads).filter(|&threads| threads > 0);
        Ok(())
    })
}

/// The most tokens that are computed together, from 1 to 65536, which bounds the working memory; 0, the default, is 512.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_model_options_set_chunk(
    options: *mut kinglet_model_options,
    tokens: usize,
) -> kinglet_status {
    set(options, |options| {
        if tokens > 1 << 16 {
            return Err(Failure::argument(format!(
                "chunks of {tokens}: at most 65536 are possible"
            )));
        }
        options.model.chunk = Some(tokens).filter(|&tokens| tokens > 0);
        Ok(())
    })
}

/// The most tokens that a session may hold; 0, the default, is no limit.
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

/// Whether tensors that the model has no use for are an error (1) or only a warning in the log (0, the default). Tensors that are missing
/// are an error in any case.
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

/// The opposite of `kinglet_model_options_set_strict`, which is newer: whether tensors that the model has no use for are only a warning in
/// the log (1, the default) or an error (0).
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

/// How many bytes of earlier states a session may keep so that a conversation whose beginning it has computed before goes on from
/// there; 256 MiB by default, 0 for none.
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

/// Whether opening reads all weights into memory (1), so that the first answer doesn't wait for them, or leaves them to be read when
/// they are needed (0, the default), so that opening takes milliseconds.
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

/// Has `progress` called with `user` while a model is opened: at the beginning, at the end, and with
/// `kinglet_model_options_set_fetch` every 16 MiB. Null, the default, for no calls. `user` may be anything; Kinglet only hands it back.
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
