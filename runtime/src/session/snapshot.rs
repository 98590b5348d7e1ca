//! [`Snapshot`]: what a session was at a moment.

use std::sync::{Arc, Mutex};

use super::{Session, Taken};
use crate::Error;
use crate::backend::SessionState;
use crate::model::Model;

/// A state that nobody steps, so that many can hold it.
#[derive(Clone)]
pub(crate) struct SharedState(Arc<Mutex<Box<dyn SessionState>>>);

impl SharedState {
    pub(crate) fn new(state: Box<dyn SessionState>) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// A state of one's own, to be stepped.
    pub(crate) fn copy(&self) -> Result<Box<dyn SessionState>, Error> {
        self.with(|state| state.snapshot())
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&dyn SessionState) -> T) -> T {
        // It is only read: nothing can have left it half-way.
        let state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        f(&**state)
    }
}

/// What a [`Session`] was at a moment: state, tokens, last logits. It stays on the device and never changes. A device
/// that is lost takes it along: [`Snapshot::write_to`] is what survives.
///
/// Clones share everything. Made by [`Session::snapshot`]; [`Session::restore`] brings a session back to it, and
/// [`Snapshot::session`] begins a new one there.
#[derive(Clone)]
pub struct Snapshot(Arc<Inner>);

struct Inner {
    model: Model,
    state: SharedState,
    tokens: Taken,
    logits: Option<Vec<f32>>,
}

impl Snapshot {
    pub(crate) fn new(
        model: Model,
        state: SharedState,
        tokens: Taken,
        logits: Option<&[f32]>,
    ) -> Self {
        Self(Arc::new(Inner { model, state, tokens, logits: logits.map(<[f32]>::to_vec) }))
    }

    /// The model that the session belonged to.
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// The tokens that the session had taken; ids of vectors among them are as in [`Session::tokens`].
    pub fn tokens(&self) -> &[u32] {
        &self.0.tokens
    }

    pub(crate) fn taken(&self) -> &Taken {
        &self.0.tokens
    }

    /// Number of tokens that the session had taken.
    pub fn position(&self) -> usize {
        self.0.tokens.len()
    }

    /// Logits after the last token, `[vocab]`, if they were known.
    pub fn last_logits(&self) -> Option<&[f32]> {
        self.0.logits.as_deref()
    }

    /// Bytes of state, shared or not.
    pub fn state_bytes(&self) -> usize {
        self.0.state.with(|state| state.bytes())
    }

    /// A new session that goes on from here.
    ///
    /// # Errors
    /// When there is no memory for its state.
    pub fn session(&self) -> Result<Session, Error> {
        let mut session = self.0.model.session()?;
        session.restore(self)?;
        Ok(session)
    }

    pub(crate) fn state(&self) -> &SharedState {
        &self.0.state
    }

    /// Bytes besides the state.
    pub(crate) fn own_bytes(&self) -> usize {
        size_of::<Inner>() + self.0.tokens.bytes() + 4 * self.0.logits.as_ref().map_or(0, Vec::len)
    }
}
