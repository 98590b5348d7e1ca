//! Generations: answers, one token at a time or all at once.

use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::generation_options::{self, kinglet_generation_options};
use crate::generator::{Generator, Prompt, encode};
use crate::guard::{call, call_for};
use crate::handle::{self, Object};
use crate::memory::{self, MAX_TOKENS};
use crate::session::{SessionObject, kinglet_session};
use crate::status::{Failure, kinglet_status};
use crate::tokenizer::encode_options;

/// One answer, during and after generation. It belongs to a session. The session is locked only
/// during calls, but it must not be fed, rewound or given to another generation before the answer
/// is complete: the next call would return `KINGLET_INVALID_STATE`. One thread at a time.
pub struct kinglet_generation;

/// Why an answer ended.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_finish {
    /// It has not ended.
    KINGLET_FINISH_NONE = 0,
    /// The model generated one of its stop tokens.
    KINGLET_FINISH_STOP = 1,
    /// A stop string appeared.
    KINGLET_FINISH_STOP_TEXT = 2,
    /// It reached the maximum number of tokens.
    KINGLET_FINISH_MAX_TOKENS = 3,
    /// Prompt and answer fill the session's limit, or the positions that the model was trained for.
    KINGLET_FINISH_CONTEXT_FULL = 4,
    /// The program stopped it, with `kinglet_generation_stop` or from the token callback.
    KINGLET_FINISH_STOPPED = 5,
}

/// Statistics of an answer.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_stat {
    /// Tokens of the prompt.
    KINGLET_STAT_PROMPT_TOKENS = 0,
    /// Tokens of the prompt whose state was reused.
    KINGLET_STAT_REUSED_TOKENS = 1,
    /// Tokens of the answer, including its stop token.
    KINGLET_STAT_GENERATED_TOKENS = 2,
    /// Seconds spent on the prompt.
    KINGLET_STAT_PREFILL_SECONDS = 3,
    /// Seconds from the first call to the first token; 0 if there is none.
    KINGLET_STAT_FIRST_TOKEN_SECONDS = 4,
    /// Prompt tokens computed per second; 0 if none were computed.
    KINGLET_STAT_PREFILL_RATE = 5,
    /// Answer tokens per second, after the first; 0 for fewer than two tokens.
    KINGLET_STAT_DECODE_RATE = 6,
    /// Model steps of an answer with speculation; otherwise 0.
    KINGLET_STAT_SPECULATION_STEPS = 7,
    /// Drafted tokens.
    KINGLET_STAT_DRAFTED_TOKENS = 8,
    /// Drafted tokens that were accepted.
    KINGLET_STAT_ACCEPTED_TOKENS = 9,
}

/// Called for each token of an answer, with `user`, the token, and the text that is now final:
/// `length` bytes of UTF-8 followed by a NUL, often empty, never part of a character, valid until
/// the callback returns. Return 0 to continue and any other value to end the answer.
///
/// It runs on the generating thread. It may call any function, but calls on the same generation or
/// session return `KINGLET_BUSY`, except `kinglet_session_cancel`. It must return normally: no
/// exception, no `longjmp`.
pub type kinglet_token_callback = Option<
    unsafe extern "C" fn(user: *mut c_void, token: u32, text: *const c_char, length: usize) -> i32,
>;

pub(crate) struct Generation {
    session: Arc<SessionObject>,
    inner: Mutex<State>,
}

pub(crate) struct State {
    generator: Generator,
    /// Text returned by the last call.
    text: CString,
}

impl Object for Generation {
    type Handle = kinglet_generation;
    const NAME: &'static str = "generation";
}

impl Generation {
    fn lock(&self) -> Result<MutexGuard<'_, State>, Failure> {
        self.inner.try_lock().map_err(|error| match error {
            std::sync::TryLockError::WouldBlock => Failure::new(
                kinglet_status::KINGLET_BUSY,
                "the generation is in use by another call",
            ),
            std::sync::TryLockError::Poisoned(_) => {
                let message = "an earlier call on this generation failed: delete it";
                Failure::new(kinglet_status::KINGLET_POISONED, message)
            }
        })
    }

    /// Calls `callback` for each token until the answer is complete.
    fn run(&self, callback: kinglet_token_callback, user: *mut c_void) -> Result<(), Failure> {
        let mut state = self.lock()?;
        // Locked until the end, so that a callback that uses the session gets KINGLET_BUSY.
        self.session.cancellable(|inner| {
            state.generator.run(inner, |piece| {
                let Some(callback) = callback else { return true };
                let text = c_text(piece.text);
                let length = text.as_bytes().len();
                // SAFETY: the header requires a function that can be called like this.
                unsafe { callback(user, piece.token, text.as_ptr(), length) == 0 }
            })
        })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // Undoes unverified guesses. If another call holds the session, that call finds out.
        let state = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Ok(mut inner) = self.session.lock() {
            state.generator.leave(&mut inner);
        }
    }
}

/// Text as a C string. A NUL in the text, which models hardly ever generate, is dropped.
fn c_text(text: String) -> CString {
    CString::new(text).unwrap_or_else(|error| {
        let bytes = error.into_vec().into_iter().filter(|&byte| byte != 0).collect::<Vec<u8>>();
        CString::new(bytes).unwrap_or_default()
    })
}

/// Creates a generation of a session; `prompt` makes its prompt.
pub(crate) fn create(
    session: *mut kinglet_session,
    options: *const kinglet_generation_options,
    prompt: impl FnOnce(
        &SessionObject,
        &generation_options::GenerationOptions,
    ) -> Result<Prompt, Failure>,
) -> Result<Arc<Generation>, Failure> {
    let session = handle::get::<SessionObject>(session)?;
    let options = generation_options::resolve(options)?;
    let prompt = prompt(&session, &options)?;
    let generator = Generator::new(&session.model, &mut *session.lock()?, prompt, &options)?;
    let inner = Mutex::new(State { generator, text: CString::default() });
    Ok(Arc::new(Generation { session, inner }))
}

fn prompt_of(session: &SessionObject, text: &str, flags: u32) -> Result<Prompt, Failure> {
    Ok(Prompt::After(encode(&session.model, text, encode_options(flags)?)?))
}

/// Creates a generation that first feeds `count` tokens to the session and continues from there.
/// With `count` 0 and `tokens` null it continues from the session's position. `options` may be
/// null. Nothing is computed before the first call of `kinglet_generation_next`.
///
/// Free the generation with `kinglet_generation_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_create(
    session: *mut kinglet_session,
    tokens: *const u32,
    count: usize,
    options: *const kinglet_generation_options,
    generation: *mut *mut kinglet_generation,
) -> kinglet_status {
    call(|| {
        memory::check_out(generation, "generation")?;
        let tokens = memory::slice(tokens, count, MAX_TOKENS, "tokens")?;
        let object = create(session, options, |_, _| Ok(Prompt::After(tokens.to_vec())))?;
        memory::write(generation, "generation", handle::insert(object)?)
    })
}

/// Like `kinglet_generation_create`, for a text of `length` bytes, which is tokenized with `flags`
/// as in `kinglet_tokenizer_encode`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_create_text(
    session: *mut kinglet_session,
    text: *const c_char,
    length: usize,
    flags: u32,
    options: *const kinglet_generation_options,
    generation: *mut *mut kinglet_generation,
) -> kinglet_status {
    call(|| {
        memory::check_out(generation, "generation")?;
        let text = memory::text(text, length, "text")?;
        let object = create(session, options, |session, _| prompt_of(session, text, flags))?;
        memory::write(generation, "generation", handle::insert(object)?)
    })
}

/// Deletes a generation, complete or not. Null is allowed. A generation keeps its session in
/// memory.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_delete(generation: *mut kinglet_generation) -> kinglet_status {
    call(|| handle::delete::<Generation>(generation))
}

/// Generates the next token. `KINGLET_OK` returns the token and the text that is now final:
/// `length` bytes of UTF-8 followed by a NUL, often empty, never part of a character.
/// `KINGLET_DONE` means that the answer is complete and there is no token. Each of the three out
/// pointers may be null.
///
/// The text belongs to Kinglet and is valid until the next call with this generation. After
/// `KINGLET_CANCELLED` the next call continues. After `KINGLET_DONE` the session holds the prompt
/// and the answer without its stop token.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_next(
    generation: *mut kinglet_generation,
    token: *mut u32,
    text: *mut *const c_char,
    length: *mut usize,
) -> kinglet_status {
    call_for(|| {
        let object = handle::get::<Generation>(generation)?;
        let mut state = object.lock()?;
        let state = &mut *state;
        let piece = object.session.cancellable(|inner| state.generator.next(inner))?;
        let done = piece.is_none();
        let (id, piece) =
            piece.map_or((u32::MAX, String::new()), |piece| (piece.token, piece.text));
        state.text = c_text(piece);
        memory::write_optional(token, "token", id)?;
        memory::write_optional(text, "text", state.text.as_ptr())?;
        memory::write_optional(length, "length", state.text.as_bytes().len())?;
        Ok(if done { kinglet_status::KINGLET_DONE } else { kinglet_status::KINGLET_OK })
    })
}

/// Generates the rest of the answer. `callback` may be null; `kinglet_generation_text` returns the
/// whole text.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_run(
    generation: *mut kinglet_generation,
    callback: kinglet_token_callback,
    user: *mut c_void,
) -> kinglet_status {
    call(|| handle::get::<Generation>(generation)?.run(callback, user))
}

/// Ends the answer. The session then holds every token that was returned.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_stop(generation: *mut kinglet_generation) -> kinglet_status {
    call(|| {
        let object = handle::get::<Generation>(generation)?;
        let mut state = object.lock()?;
        object.session.cancellable(|inner| state.generator.stop(inner))
    })
}

/// Returns the text of the answer so far, with a terminating NUL that `length` (may be null) does
/// not count. Free it with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_text(
    generation: *const kinglet_generation,
    text: *mut *mut c_char,
    length: *mut usize,
) -> kinglet_status {
    call(|| {
        memory::check_out(text, "text")?;
        let object = handle::get::<Generation>(generation)?;
        let answer = object.lock()?.generator.text().to_string();
        memory::lend_bytes(answer.into_bytes(), text, length)
    })
}

/// Tells why the answer ended, as an `enum kinglet_finish`; `KINGLET_FINISH_NONE` while it has not.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_finish(
    generation: *const kinglet_generation,
    finish: *mut i32,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<Generation>(generation)?;
        memory::write(finish, "finish", object.lock()?.generator.finish() as i32)
    })
}

/// Returns a statistic of the answer. `stat` is an `enum kinglet_stat`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_stat(
    generation: *const kinglet_generation,
    stat: u32,
    value: *mut f64,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<Generation>(generation)?;
        let stats = object.lock()?.generator.stats();
        let guesses = stats.speculation.unwrap_or_default();
        let number = match stat {
            0 => stats.prompt as f64,
            1 => stats.reused as f64,
            2 => stats.generated as f64,
            3 => stats.prefill.as_secs_f64(),
            4 => stats.first_token.map_or(0.0, |time| time.as_secs_f64()),
            5 => stats.prefill_rate().unwrap_or(0.0),
            6 => stats.decode_rate().unwrap_or(0.0),
            7 => guesses.steps as f64,
            8 => guesses.drafted as f64,
            9 => guesses.accepted as f64,
            other => return Err(Failure::argument(format!("there is no statistic {other}"))),
        };
        memory::write(value, "value", number)
    })
}
