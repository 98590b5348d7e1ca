//! Generations: answers, a token at a time or all at once.

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

/// One answer while it is generated, and afterwards. It belongs to a session, which is in use only during calls; the session must not be fed, rewound or
/// given to another generation before the answer is complete (`KINGLET_INVALID_STATE` says that it was). One thread at a time.
pub struct kinglet_generation;

/// Why an answer ended.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_finish {
    /// It has not.
    KINGLET_FINISH_NONE = 0,
    /// The model ended it with one of its stop tokens.
    KINGLET_FINISH_STOP = 1,
    /// A stop text appeared.
    KINGLET_FINISH_STOP_TEXT = 2,
    /// It has as many tokens as the options allow.
    KINGLET_FINISH_MAX_TOKENS = 3,
    /// Prompt and answer have as many tokens as the session may hold, or as the positions of the model were made for.
    KINGLET_FINISH_CONTEXT_FULL = 4,
    /// The program ended it: `kinglet_generation_stop`, or the token callback.
    KINGLET_FINISH_STOPPED = 5,
}

/// Numbers about an answer.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kinglet_stat {
    /// Tokens of the prompt.
    KINGLET_STAT_PROMPT_TOKENS = 0,
    /// Those of them whose state was there already.
    KINGLET_STAT_REUSED_TOKENS = 1,
    /// Tokens of the answer, with the one that ended it.
    KINGLET_STAT_GENERATED_TOKENS = 2,
    /// Seconds for the prompt.
    KINGLET_STAT_PREFILL_SECONDS = 3,
    /// Seconds from the first call to the first token; 0 without one.
    KINGLET_STAT_FIRST_TOKEN_SECONDS = 4,
    /// Tokens of the prompt computed in a second; 0 if there were none.
    KINGLET_STAT_PREFILL_RATE = 5,
    /// Tokens of the answer in a second, after the first; 0 for fewer than two.
    KINGLET_STAT_DECODE_RATE = 6,
    /// Steps of the model for the answer, where tokens were guessed; else 0.
    KINGLET_STAT_SPECULATION_STEPS = 7,
    /// Tokens that were guessed.
    KINGLET_STAT_DRAFTED_TOKENS = 8,
    /// Guesses that were right.
    KINGLET_STAT_ACCEPTED_TOKENS = 9,
}

/// Called for each token of an answer with `user`, the token, and the text that has become certain with it: UTF-8 of `length` bytes with a NUL behind
/// it, often empty, never half a character, gone when the call returns. Returns 0 to go on; anything else ends the answer.
///
/// It runs on the thread that generates. It may call anything; calls on the same session, except `kinglet_session_cancel`, or on the same generation get
/// `KINGLET_BUSY`. It must return: no exception, no `longjmp`.
pub type kinglet_token_callback = Option<
    unsafe extern "C" fn(user: *mut c_void, token: u32, text: *const c_char, length: usize) -> i32,
>;

pub(crate) struct Generation {
    session: Arc<SessionObject>,
    inner: Mutex<State>,
}

pub(crate) struct State {
    generator: Generator,
    /// The text that the last call gave out.
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
                let message = "an earlier call on this generation failed half-way: delete it";
                Failure::new(kinglet_status::KINGLET_POISONED, message)
            }
        })
    }

    /// Calls `callback` for each token until the answer is complete.
    fn run(&self, callback: kinglet_token_callback, user: *mut c_void) -> Result<(), Failure> {
        let mut state = self.lock()?;
        // Held to the end, so that a callback that uses the session is told so.
        self.session.cancellable(|inner| {
            state.generator.run(inner, |piece| {
                let Some(callback) = callback else { return true };
                let text = c_text(piece.text);
                let length = text.as_bytes().len();
                // SAFETY: the header asks for a function that can be called so.
                unsafe { callback(user, piece.token, text.as_ptr(), length) == 0 }
            })
        })
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // Not in the middle of a guess. Where another call has the session, that call is told.
        let state = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Ok(mut inner) = self.session.lock() {
            state.generator.leave(&mut inner);
        }
    }
}

/// Text as C reads it. A NUL within it, which a model can hardly say, is left out.
fn c_text(text: String) -> CString {
    CString::new(text).unwrap_or_else(|error| {
        let bytes = error.into_vec().into_iter().filter(|&byte| byte != 0).collect::<Vec<u8>>();
        CString::new(bytes).unwrap_or_default()
    })
}

/// A new generation of a session, with a prompt that `prompt` makes.
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

/// An answer that goes on from `count` tokens, which are fed to the session first; none, and `tokens` null, go on from where the session is. `options` may
/// be null. Nothing is computed yet: the first call of `kinglet_generation_next` does that.
///
/// The generation is the program's: `kinglet_generation_delete`.
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

/// The same for a text of `length` bytes, cut into tokens with `flags` as by `kinglet_tokenizer_encode`.
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

/// Deletes a generation, complete or not. Null is fine. Delete it rather than letting it lie about: it keeps its session.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_delete(generation: *mut kinglet_generation) -> kinglet_status {
    call(|| handle::delete::<Generation>(generation))
}

/// The next token of the answer. `KINGLET_OK` gives the token and the text that has become certain with it: UTF-8 of `length` bytes with a NUL behind
/// it, often empty, never half a character. `KINGLET_DONE` says that the answer was complete: there is no token. Each of the three places may be null.
///
/// The text is Kinglet's and stays until the next call with this generation. After `KINGLET_CANCELLED` the generation can be called again, and goes on.
/// After `KINGLET_DONE` the session holds the prompt and the answer without its stop token.
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

/// Generates the rest of the answer. `callback` may be null: the whole text is `kinglet_generation_text` afterwards.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_run(
    generation: *mut kinglet_generation,
    callback: kinglet_token_callback,
    user: *mut c_void,
) -> kinglet_status {
    call(|| handle::get::<Generation>(generation)?.run(callback, user))
}

/// Ends the answer here. The session then holds all tokens that were given out.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_generation_stop(generation: *mut kinglet_generation) -> kinglet_status {
    call(|| {
        let object = handle::get::<Generation>(generation)?;
        let mut state = object.lock()?;
        object.session.cancellable(|inner| state.generator.stop(inner))
    })
}

/// The text of the answer so far. It ends with a NUL, which `length` (may be null) doesn't count, and is the program's: `kinglet_free`.
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

/// Why the answer ended: an `enum kinglet_finish`, `KINGLET_FINISH_NONE` before it has.
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

/// A number about the answer: `stat` is an `enum kinglet_stat`.
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
            other => return Err(Failure::argument(format!("there is no number {other}"))),
        };
        memory::write(value, "value", number)
    })
}
