//! [`Snapshot`]: the state of a session at one moment.

use std::sync::{Arc, Mutex};

use super::{Session, TokenList};
use crate::Error;
use crate::backend::SessionState;
use crate::model::Model;

/// A state that is never stepped, so that many can share it.
#[derive(Clone)]
pub(crate) struct SharedState(Arc<Mutex<Box<dyn SessionState>>>);

impl SharedState {
    pub(crate) fn new(state: Box<dyn SessionState>) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// A copy of the state that can be stepped.
    pub(crate) fn copy(&self) -> Result<Box<dyn SessionState>, Error> {
        self.with(|state| state.snapshot())
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&dyn SessionState) -> T) -> T {
        // The state is only read, so a panic can't leave it inconsistent.
        let state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        f(&**state)
    }
}

/// A [`Session`] at one moment: state, tokens, last logits. It stays on the device, never changes,
/// and is lost with the device; [`Snapshot::write_to`] survives that.
///
/// Clones share everything. [`Session::snapshot`] creates it, [`Session::restore`] brings a session
/// back to it, and [`Snapshot::session`] starts a new one from it.
#[derive(Clone)]
pub struct Snapshot(Arc<Inner>);

struct Inner {
    model: Model,
    state: SharedState,
    tokens: TokenList,
    logits: Option<Vec<f32>>,
}

impl Snapshot {
    pub(crate) fn new(
        model: Model,
        state: SharedState,
        tokens: TokenList,
        logits: Option<&[f32]>,
    ) -> Self {
        Self(Arc::new(Inner { model, state, tokens, logits: logits.map(<[f32]>::to_vec) }))
    }

    /// The model of the session.
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    /// The tokens of the session. Ids of vectors are as in [`Session::tokens`].
    pub fn tokens(&self) -> &[u32] {
        &self.0.tokens
    }

    pub(crate) fn token_list(&self) -> &TokenList {
        &self.0.tokens
    }

    /// Number of tokens of the session.
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

    /// Creates a new session that continues from here.
    ///
    /// # Errors
    /// If there is not enough memory for its state.
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
