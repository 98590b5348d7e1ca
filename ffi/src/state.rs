//! State of sessions: forks, snapshots, rewinding, files.

use std::ffi::{c_char, c_void};
use std::io::Cursor;
use std::sync::Arc;

use kinglet::Snapshot;

use crate::guard::call;
use crate::handle::{self, Object};
use crate::memory;
use crate::model::{ModelObject, kinglet_model};
use crate::session::{SessionObject, kinglet_session};
use crate::status::{Failure, kinglet_status};

/// The state of a session at one moment. It never changes. Thread-safe. It shares memory with the
/// session until the session continues.
pub struct kinglet_snapshot;

pub(crate) struct SnapshotObject {
    model: Arc<ModelObject>,
    snapshot: Snapshot,
}

impl Object for SnapshotObject {
    type Handle = kinglet_snapshot;
    const NAME: &'static str = "snapshot";
}

fn give(
    model: Arc<ModelObject>,
    made: kinglet::Session,
    session: *mut *mut kinglet_session,
) -> Result<(), Failure> {
    memory::write(session, "session", handle::insert(Arc::new(SessionObject::new(model, made)))?)
}

/// Copies a session. Both continue from here independently. Free the fork with
/// `kinglet_session_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_fork(
    session: *const kinglet_session,
    fork: *mut *mut kinglet_session,
) -> kinglet_status {
    call(|| {
        memory::check_out(fork, "fork")?;
        let object = handle::get::<SessionObject>(session)?;
        let made = object.lock()?.session.fork()?;
        give(object.model.clone(), made, fork)
    })
}

/// Takes a snapshot of the session. Free it with `kinglet_snapshot_delete`; it may outlive the
/// session.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_snapshot_create(
    session: *const kinglet_session,
    snapshot: *mut *mut kinglet_snapshot,
) -> kinglet_status {
    call(|| {
        memory::check_out(snapshot, "snapshot")?;
        let object = handle::get::<SessionObject>(session)?;
        let taken = object.lock()?.session.snapshot()?;
        let taken = SnapshotObject { model: object.model.clone(), snapshot: taken };
        memory::write(snapshot, "snapshot", handle::insert(Arc::new(taken))?)
    })
}

/// Deletes a snapshot. Null is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_snapshot_delete(snapshot: *mut kinglet_snapshot) -> kinglet_status {
    call(|| handle::delete::<SnapshotObject>(snapshot))
}

/// Creates a session that continues from the snapshot. Free it with `kinglet_session_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_snapshot_session(
    snapshot: *const kinglet_snapshot,
    session: *mut *mut kinglet_session,
) -> kinglet_status {
    call(|| {
        memory::check_out(session, "session")?;
        let snapshot = handle::get::<SnapshotObject>(snapshot)?;
        give(snapshot.model.clone(), snapshot.snapshot.session()?, session)
    })
}

/// Restores the session to a snapshot of itself or of another session of the same model. A poisoned
/// session becomes valid again. A snapshot of another model is `KINGLET_INVALID_STATE`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_restore(
    session: *mut kinglet_session,
    snapshot: *const kinglet_snapshot,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let snapshot = handle::get::<SnapshotObject>(snapshot)?;
        object.repair(|inner| Ok(inner.session.restore(&snapshot.snapshot)?))
    })
}

/// Retains the current state, so that `kinglet_session_rewind` can return to this position. A
/// session retains 16 marks; a further one replaces the oldest.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_mark(session: *mut kinglet_session) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let mut inner = object.lock()?;
        Ok(inner.session.mark()?)
    })
}

/// Rewinds the session to its first `tokens` tokens. A recurrent layer can't forget tokens, so it
/// starts from the nearest earlier state that was retained, or from the beginning, and recomputes
/// the tokens since. `computed` (may be null) receives their number.
///
/// With `replay` 0 nothing is recomputed: a position without a retained state is
/// `KINGLET_NOT_REACHABLE`, with the nearest positions in the message, and so is a position after
/// the session's end. After a cancellation the session may hold fewer than `tokens`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_rewind(
    session: *mut kinglet_session,
    tokens: usize,
    replay: i32,
    computed: *mut usize,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let again = object.cancellable(|inner| {
            if replay != 0 {
                return Ok(inner.session.rewind_and_replay(tokens)?);
            }
            inner.session.rewind(tokens)?;
            Ok(0)
        })?;
        memory::write_optional(computed, "computed", again)
    })
}

/// Saves the session to the file `path`, which is replaced as a whole or not at all. Only the same
/// model can load it, on any backend.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_save(
    session: *const kinglet_session,
    path: *const c_char,
) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let path = memory::path(path, "path")?;
        let inner = object.lock()?;
        Ok(inner.session.save(path, None)?)
    })
}

/// Saves the session to memory, `length` bytes. Free them with `kinglet_free`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_save_bytes(
    session: *const kinglet_session,
    data: *mut *mut c_void,
    length: *mut usize,
) -> kinglet_status {
    call(|| {
        memory::check_out(data, "data")?;
        memory::check_out(length, "length")?;
        let object = handle::get::<SessionObject>(session)?;
        let mut bytes = Vec::new();
        object.lock()?.session.write_to(&mut bytes, None)?;
        memory::lend_bytes(bytes, data.cast(), length)
    })
}

/// Loads a session from a file written by `kinglet_session_save`. A damaged file, or one of another
/// model, is `KINGLET_BAD_SAVED_STATE`, with the difference in the message. Free the session with
/// `kinglet_session_delete`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_load(
    model: *const kinglet_model,
    path: *const c_char,
    session: *mut *mut kinglet_session,
) -> kinglet_status {
    call(|| {
        memory::check_out(session, "session")?;
        let model = handle::get::<ModelObject>(model)?;
        let saved = model.model.load_session(memory::path(path, "path")?)?;
        give(model, saved.session, session)
    })
}

/// Loads a session from `length` bytes returned by `kinglet_session_save_bytes` or read from a
/// saved file. See `kinglet_session_load`.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_load_bytes(
    model: *const kinglet_model,
    data: *const c_void,
    length: usize,
    session: *mut *mut kinglet_session,
) -> kinglet_status {
    call(|| {
        memory::check_out(session, "session")?;
        let model = handle::get::<ModelObject>(model)?;
        let data: &[u8] = memory::slice(data.cast(), length, isize::MAX as usize, "data")?;
        let saved = model.model.read_session(Cursor::new(data))?;
        give(model, saved.session, session)
    })
}
