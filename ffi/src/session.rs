//! Sessions: one sequence of tokens each.

use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use kinglet::{Cancel, Logits, PrefixCache, PrefixCacheOptions, Run, Session};

use crate::generator::SharedDrafter;
use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory::{self, MAX_TOKENS};
use crate::model::{ModelObject, kinglet_model};
use crate::status::{Failure, kinglet_status};
use crate::tokenizer::encode_options;

/// One sequence of tokens and the state that it has left in the model. One thread at a time: a call while another one works on the session
/// gets `KINGLET_BUSY` and changes nothing. Only `kinglet_session_cancel`, `kinglet_session_clear_cancel` and `kinglet_session_delete` may be called at any time.
/// Threads may take turns.
///
/// A call that fails half-way poisons the session, and later calls get `KINGLET_POISONED` until it is reset or restored. One
/// that was cancelled, or refused its arguments, does not.
pub struct kinglet_session;

pub(crate) struct SessionObject {
    pub(crate) model: Arc<ModelObject>,
    cancel: Cancel,
    inner: Mutex<Inner>,
}

/// What one call at a time works on.
pub(crate) struct Inner {
    pub(crate) session: Session,
    /// Earlier states, for prompts that begin like earlier ones; made when the first prompt comes.
    cache: Option<PrefixCache>,
    /// What guessed for the last answer, by the model it is of.
    pub(crate) drafter: Option<(Arc<ModelObject>, SharedDrafter)>,
}

impl Object for SessionObject {
    type Handle = kinglet_session;
    const NAME: &'static str = "session";
}

impl SessionObject {
    pub(crate) fn new(model: Arc<ModelObject>, mut session: Session) -> Self {
        let cancel = Cancel::new();
        session.set_cancel(Some(cancel.clone()));
        Self { model, cancel, inner: Mutex::new(Inner { session, cache: None, drafter: None }) }
    }

    /// The session, for one call.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Inner>, Failure> {
        self.inner.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => busy(),
            TryLockError::Poisoned(_) => Failure::from(kinglet::Error::PoisonedSession),
        })
    }

    /// The session, to be made sound: also a poisoned one. What the closure leaves is sound where it succeeds.
    pub(crate) fn repair(
        &self,
        run: impl FnOnce(&mut Inner) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::WouldBlock) => return Err(busy()),
            Err(TryLockError::Poisoned(poisoned)) => {
                let mut inner = poisoned.into_inner();
                // It may be what broke off half-way.
                inner.cache = None;
                inner.drafter = None;
                inner
            }
        };
        run(&mut inner)?;
        self.inner.clear_poison();
        Ok(())
    }

    /// Runs work on the session that can be cancelled. The call that ends because of it takes the cancellation away.
    pub(crate) fn cancellable<T>(
        &self,
        run: impl FnOnce(&mut Inner) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut inner = self.lock()?;
        let result = run(&mut inner);
        if matches!(&result, Err(failure) if failure.status == kinglet_status::KINGLET_CANCELLED) {
            self.cancel.clear();
        }
        result
    }
}

impl Inner {
    /// The cache of earlier states.
    pub(crate) fn cache(
        &mut self,
        bytes: usize,
    ) -> Result<(&mut Session, &mut PrefixCache), Failure> {
        if self.cache.is_none() {
            let mut options = PrefixCacheOptions::default();
            options.max_bytes = bytes;
            self.cache = Some(PrefixCache::new(self.session.model(), options)?);
        }
        let Self { session, cache, .. } = self;
        let missing = || Failure::new(kinglet_status::KINGLET_INTERNAL, "no cache of states");
        Ok((session, cache.as_mut().ok_or_else(missing)?))
    }

    /// Takes tokens in, a chunk after the other, so that what was taken before a cancellation stays.
    pub(crate) fn feed(&mut self, tokens: &[u32]) -> Result<(), Failure> {
        check_tokens(&self.session, tokens)?;
        let model = self.session.model().clone();
        let mut pieces = tokens.chunks(PIECE).peekable();
        while let Some(tokens) = pieces.next() {
            let logits = if pieces.peek().is_some() { Logits::None } else { Logits::Last };
            model.step(&mut [Run { session: &mut self.session, tokens, logits }])?;
        }
        Ok(())
    }
}

/// Tokens that are taken between two places where a cancelled call may leave the session.
const PIECE: usize = 512;

/// That a later piece is not refused when earlier ones have been taken.
fn check_tokens(session: &Session, tokens: &[u32]) -> Result<(), Failure> {
    let vocab = session.model().vocab();
    match tokens.iter().position(|&id| usize::try_from(id).map_or(true, |id| id >= vocab)) {
        Some(index) => {
            let id = tokens.get(index).copied().unwrap_or_default();
            Err(kinglet::Error::TokenOutOfRange { id, index, vocab }.into())
        }
        None if tokens.is_empty() => Err(kinglet::Error::EmptyRun.into()),
        None => match session.context_limit() {
            Some(limit) if tokens.len() > limit.saturating_sub(session.position()) => {
                let (held, more) = (session.position(), tokens.len());
                Err(kinglet::Error::ContextFull { held, more, limit }.into())
            }
            _ => Ok(()),
        },
    }
}

fn busy() -> Failure {
    Failure::new(kinglet_status::KINGLET_BUSY, "the session is in use by another call")
}

/// A session without tokens. It is the program's: `kinglet_session_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_create(
    model: *const kinglet_model,
    session: *mut *mut kinglet_session,
) -> kinglet_status {
    call(|| {
        memory::check_out(session, "session")?;
        let model = handle::get::<ModelObject>(model)?;
        let made = model.model.session()?;
        let object = Arc::new(SessionObject::new(model, made));
        memory::write(session, "session", handle::insert(object)?)
    })
}

/// Deletes a session. Null is fine. A call that works on it on another thread is not disturbed (cancel it first); a generation keeps
/// its session until it is deleted itself.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_delete(session: *mut kinglet_session) -> kinglet_status {
    call(|| handle::delete::<SessionObject>(session))
}

/// Takes `count` tokens into the session, at least one; its logits are then those after the last.
///
/// When it is cancelled, the session holds those of the tokens that were taken until then: see `kinglet_session_position`. When a token is
/// out of range or the session too full, nothing has changed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_feed(
    session: *mut kinglet_session,
    tokens: *const u32,
    count: usize,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let tokens = memory::slice(tokens, count, MAX_TOKENS, "tokens")?;
        object.cancellable(|inner| inner.feed(tokens))
    })
}

/// Takes vectors into the session as `kinglet_session_feed` does tokens, each in place of what a token is embedded as
/// (`kinglet_model_embed`): what another model makes of a picture, for one. `vectors` has `floats` numbers, a multiple of
/// `kinglet_model_embedding_width`, all finite. Of every model, on every backend.
///
/// Their positions have numbers from 2^31 on among the session's tokens: the same for the same vector, in this process and as long as a session,
/// snapshot or prefix cache holds the vector. All else works as with tokens, except that a rewind which would have to compute them again is
/// `KINGLET_NOT_REACHABLE`. When it is cancelled or refused, nothing has changed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_feed_embeddings(
    session: *mut kinglet_session,
    vectors: *const f32,
    floats: usize,
) -> kinglet_status {
    const MAX_FLOATS: usize = 1 << 32;
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let vectors = memory::slice(vectors, floats, MAX_FLOATS, "vectors")?;
        object.cancellable(|inner| Ok(inner.session.feed_embeddings(vectors).map(drop)?))
    })
}

/// Takes a text of `length` bytes into the session: `kinglet_tokenizer_encode` with `flags` and `kinglet_session_feed`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_feed_text(
    session: *mut kinglet_session,
    text: *const c_char,
    length: usize,
    flags: u32,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let text = memory::text(text, length, "text")?;
        let tokens = object.model.tokenizer()?.encode(text, encode_options(flags)?)?;
        object.cancellable(|inner| inner.feed(&tokens))
    })
}

/// One step of several sessions of one model, which costs little more than that of one: session `i` of `sessions` takes `counts[i]` tokens from
/// `tokens[i]`. All of `count` must be different and free, and each take at least one token.
///
/// When it is cancelled (through any of the sessions) or refuses an argument, none has changed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_step(
    sessions: *const *mut kinglet_session,
    tokens: *const *const u32,
    counts: *const usize,
    count: usize,
) -> kinglet_status {
    const MAX_RUNS: usize = 1 << 16;
    call(|| {
        let handles = memory::slice(sessions, count, MAX_RUNS, "sessions")?;
        let tokens = memory::slice(tokens, count, MAX_RUNS, "tokens")?;
        let counts = memory::slice(counts, count, MAX_RUNS, "counts")?;
        let objects: Vec<Arc<SessionObject>> = handles
            .iter()
            .map(|&handle| handle::get::<SessionObject>(handle))
            .collect::<Result<_, _>>()?;
        let Some(first) = objects.first() else {
            return Err(Failure::argument("a step needs at least one session"));
        };
        let mut guards =
            objects.iter().map(|object| object.lock()).collect::<Result<Vec<_>, _>>()?;
        let mut runs = Vec::with_capacity(count);
        for ((inner, &tokens), &count) in guards.iter_mut().zip(tokens).zip(counts) {
            let tokens = memory::slice(tokens, count, MAX_TOKENS, "the tokens of a session")?;
            runs.push(Run { session: &mut inner.session, tokens, logits: Logits::Last });
        }
        let result = first.model.model.step(&mut runs);
        if matches!(result, Err(kinglet::Error::Cancelled)) {
            objects.iter().for_each(|object| object.cancel.clear());
        }
        Ok(result?)
    })
}

/// Writes the logits after the last token to `logits`, which has room for `count` numbers: `kinglet_model_vocabulary` are needed.
/// `KINGLET_INVALID_STATE` if there are none: nothing was fed, or the session went back to where they were not kept.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_logits(
    session: *const kinglet_session,
    logits: *mut f32,
    count: usize,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let inner = object.lock()?;
        let last = inner.session.last_logits().ok_or_else(no_logits)?;
        memory::copy_out(logits, count, last, "logits")
    })
}

pub(crate) fn no_logits() -> Failure {
    let message = "the session has no logits here: feed it a token first";
    Failure::new(kinglet_status::KINGLET_INVALID_STATE, message)
}

/// How many tokens the session holds.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_position(
    session: *const kinglet_session,
    tokens: *mut usize,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        memory::write(tokens, "tokens", object.lock()?.session.position())
    })
}

/// The tokens that the session holds. They are the program's: `kinglet_free`, also when there are none.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_tokens(
    session: *const kinglet_session,
    tokens: *mut *mut u32,
    count: *mut usize,
) -> kinglet_status {
    call(|| {
        memory::check_out(tokens, "tokens")?;
        memory::check_out(count, "count")?;
        let object = handle::get::<SessionObject>(session)?;
        let held = object.lock()?.session.tokens().to_vec();
        memory::lend_tokens(held, tokens, count)
    })
}

/// Bytes of memory that the session takes: `state` for where it is, `retained` for what it can go back to. Either place may be null.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_memory(
    session: *const kinglet_session,
    state: *mut u64,
    retained: *mut u64,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let inner = object.lock()?;
        let cached = inner.cache.as_ref().map_or(0, |cache| cache.stats().bytes);
        let held = inner.session.retained_bytes().saturating_add(cached);
        memory::write_optional(state, "state", inner.session.state_bytes() as u64)?;
        memory::write_optional(retained, "retained", held as u64)
    })
}

/// Cancels what the session is doing, or, if it is doing nothing, the next thing that computes. From any thread, at any time, also from a
/// callback. The call that is cancelled returns `KINGLET_CANCELLED` within one step (of several tokens: within one layer's operation, on
/// the CPU) and takes the cancellation away. The session stays sound.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_cancel(session: *mut kinglet_session) -> kinglet_status {
    call(|| {
        handle::get::<SessionObject>(session)?.cancel.set();
        Ok(())
    })
}

/// Takes a cancellation away that came too late for the call that it was meant for. From any thread, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_clear_cancel(session: *mut kinglet_session) -> kinglet_status {
    call(|| {
        handle::get::<SessionObject>(session)?.cancel.clear();
        Ok(())
    })
}

/// Makes the session one without tokens; also a poisoned one, which is sound again.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_reset(session: *mut kinglet_session) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        object.repair(|inner| Ok(inner.session.reset()?))
    })
}
