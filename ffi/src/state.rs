//! The state of sessions: forks, snapshots, going back, files.

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

/// What a session was at a moment. It never changes; any number of threads may use it. It shares memory with the session until that goes on.
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

/// A second session that goes on from here by itself. It is the program's: `kinglet_session_delete`.
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

/// Keeps what the session is now. The snapshot is the program's: `kinglet_snapshot_delete`, and may outlive the session.
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

/// Deletes a snapshot. Null is fine.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_snapshot_delete(snapshot: *mut kinglet_snapshot) -> kinglet_status {
    call(|| handle::delete::<SnapshotObject>(snapshot))
}

/// A new session that goes on from the snapshot. It is the program's: `kinglet_session_delete`.
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

/// Makes the session what it, or another one of the same model, was at the snapshot; also a poisoned one, which is sound again. Another model's snapshot is
/// `KINGLET_INVALID_STATE`.
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

/// Retains the state here, so that `kinglet_session_rewind` can come back to this position. Of more than 16 the oldest makes room.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_session_mark(session: *mut kinglet_session) -> kinglet_status {
    call(|| {
        let object = handle::get::<SessionObject>(session)?;
        let mut inner = object.lock()?;
        Ok(inner.session.mark()?)
    })
}

/// Back to the first `tokens` tokens. A recurrent layer can't forget: it gets there from the nearest state that was retained before, or from the
/// beginning, by computing the tokens from there again. `computed` (may be null) is how many those are.
///
/// With `replay` 0 nothing is computed: what can't be reached so is `KINGLET_NOT_REACHABLE`, with the nearest positions in the message. A
/// session that holds fewer tokens gives the same. When it is cancelled, the session may hold fewer than `tokens`.
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

/// Saves the session to the file `path`, which is written whole or not at all. The file fits the same model only, on any backend.
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

/// Saves the session to memory, `length` bytes. They are the program's: `kinglet_free`.
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

/// A session from a file that `kinglet_session_save` wrote. What is damaged or another model's is refused: `KINGLET_BAD_SAVED_STATE`, with what
/// differs in the message. The session is the program's: `kinglet_session_delete`.
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

/// A session from `length` bytes that `kinglet_session_save_bytes` gave, or from those of a saved file: as `kinglet_session_load`.
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
