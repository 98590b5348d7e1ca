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

/// A sequence of tokens and its state in the model. One thread at a time: a call during another
/// call on the same session returns `KINGLET_BUSY` and changes nothing. Only
/// `kinglet_session_cancel`, `kinglet_session_clear_cancel` and `kinglet_session_delete` may be
/// called at any time. Threads may take turns.
///
/// A call that fails halfway poisons the session, and later calls return `KINGLET_POISONED` until
/// it is reset or restored. A call that was cancelled, or whose arguments were refused, does not.
pub struct kinglet_session;

pub(crate) struct SessionObject {
    pub(crate) model: Arc<ModelObject>,
    cancel: Cancel,
    inner: Mutex<Inner>,
}

/// The part of a session that one call at a time works on.
pub(crate) struct Inner {
    pub(crate) session: Session,
    /// Earlier states, for prompts that share a prefix with an earlier one; created with the first
    /// prompt.
    cache: Option<PrefixCache>,
    /// The drafter of the last answer, with its model.
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

    /// Locks the session for one call.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Inner>, Failure> {
        self.inner.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => busy(),
            TryLockError::Poisoned(_) => Failure::from(kinglet::Error::PoisonedSession),
        })
    }

    /// Locks the session even if it is poisoned. If `run` succeeds, it must leave the session
    /// valid.
    pub(crate) fn repair(
        &self,
        run: impl FnOnce(&mut Inner) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::WouldBlock) => return Err(busy()),
            Err(TryLockError::Poisoned(poisoned)) => {
                let mut inner = poisoned.into_inner();
                // The panic may have happened in these.
                inner.cache = None;
                inner.drafter = None;
                inner
            }
        };
        run(&mut inner)?;
        self.inner.clear_poison();
        Ok(())
    }

    /// Runs cancellable work on the session. If the call returns because of a cancellation, it
    /// clears the cancellation.
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
    /// The session and its cache of earlier states.
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

    /// Feeds tokens in chunks, so that chunks fed before a cancellation are kept.
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

/// Number of tokens between two points where a cancelled call may leave the session.
const PIECE: usize = 512;

/// Checks all tokens first, so that a later chunk is not refused after earlier ones were fed.
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

/// Creates a session without tokens. Free it with `kinglet_session_delete`.
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

/// Deletes a session. Null is allowed. A call in progress on another thread continues (cancel it
/// first); a generation keeps its session until it is deleted too.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_delete(session: *mut kinglet_session) -> kinglet_status {
    call(|| handle::delete::<SessionObject>(session))
}

/// Feeds `count` tokens, at least one, to the session. Its logits are then those after the last
/// token.
///
/// After a cancellation the session holds the tokens that were fed before it: see
/// `kinglet_session_position`. If a token is out of range or the session would be too full, nothing
/// changes.
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

/// Feeds vectors to the session in place of the embeddings of tokens (`kinglet_model_embed`), for
/// example a picture encoded by another model. `vectors` has `floats` numbers, a multiple of
/// `kinglet_model_embedding_width`, all finite. Works with every model on every backend.
///
/// Among the session's tokens each vector appears as a number from 2^31 on. Equal vectors have
/// equal numbers within this process, as long as a session, snapshot or prefix cache holds the
/// vector. Otherwise vectors behave like tokens, except that a rewind that would have to recompute
/// them returns `KINGLET_NOT_REACHABLE`. After a cancellation or a refusal nothing has changed.
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

/// Feeds a text of `length` bytes: `kinglet_tokenizer_encode` with `flags`, then
/// `kinglet_session_feed`.
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

/// Runs one step of several sessions of one model, which costs little more than a step of one:
/// session `i` of `sessions` takes `counts[i]` tokens from `tokens[i]`. The `count` sessions must
/// be different and not in use, and each takes at least one token.
///
/// After a cancellation (through any of the sessions) or a refused argument no session has changed.
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

/// Writes the logits after the last token to `logits`, which has room for `count` numbers;
/// `kinglet_model_vocabulary` are needed. Returns `KINGLET_INVALID_STATE` if there are none:
/// nothing was fed, or the session was rewound to a position without logits.
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

/// Returns the number of tokens that the session holds.
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

/// Returns the tokens that the session holds. Free them with `kinglet_free`, even if there are
/// none.
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

/// Returns the session's memory in bytes: `state` for its current state, `retained` for earlier
/// states. Either pointer may be null.
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

/// Cancels the session's current call, or, if there is none, its next call that computes. May be
/// called from any thread at any time, also from a callback. The cancelled call returns
/// `KINGLET_CANCELLED` within one step (on the CPU, with several tokens, within one operation of a
/// layer) and clears the cancellation. The session stays valid.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_cancel(session: *mut kinglet_session) -> kinglet_status {
    call(|| {
        handle::get::<SessionObject>(session)?.cancel.set();
        Ok(())
    })
}

/// Clears a cancellation that came too late for the call it was meant for. May be called from any
/// thread at any time.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_clear_cancel(session: *mut kinglet_session) -> kinglet_status {
    call(|| {
        handle::get::<SessionObject>(session)?.cancel.clear();
        Ok(())
    })
}

/// Removes all tokens from the session. A poisoned session becomes valid again.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_reset(session: *mut kinglet_session) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        object.repair(|inner| Ok(inner.session.reset()?))
    })
}
