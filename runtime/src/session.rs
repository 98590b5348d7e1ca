//! [`Session`]: one sequence of tokens and the state that it has left behind.

use crate::Error;
use crate::backend::{Logits, SessionState};
use crate::model::{Model, Run};

/// The state of one sequence: recurrent tensors, key/value cache, tokens, last logits.
///
/// It is made by [`Model::session`] and grows by [`Session::feed`] or by [`Model::step`], which runs
/// several sessions together.
pub struct Session {
    pub(crate) model: Model,
    pub(crate) state: Box<dyn SessionState>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logits: Vec<f32>,
    pub(crate) poisoned: bool,
    pub(crate) context_limit: Option<usize>,
}

impl Session {
    /// Takes `tokens` into the state and returns the logits after the last of them, `[vocab]`.
    ///
    /// # Errors
    /// When a token is out of range (nothing has changed then), there is no memory, or the session is poisoned.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        let model = self.model.clone();
        model.step(&mut [Run { session: self, tokens, logits: Logits::Last }])?;
        Ok(&self.logits)
    }

    /// Takes `tokens` into the state and returns the logits after each of them, `[tokens, vocab]`.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_all(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        let model = self.model.clone();
        model.step(&mut [Run { session: self, tokens, logits: Logits::All }])?;
        Ok(&self.logits)
    }

    /// The model that the session belongs to.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokens taken so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens taken so far.
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// The logits that the last step was asked for, `[rows, vocab]`.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Logits after the last token, if the last step was asked for them.
    pub fn last_logits(&self) -> Option<&[f32]> {
        let start = self.logits.len().checked_sub(self.model.vocab())?;
        self.logits.get(start..)
    }

    /// Bytes of state held.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// A second session that goes on from here by itself.
    ///
    /// # Errors
    /// When there is no memory for its state, or this one is poisoned.
    pub fn fork(&self) -> Result<Self, Error> {
        if self.poisoned {
            return Err(Error::PoisonedSession);
        }
        Ok(Self {
            model: self.model.clone(),
            state: self.state.snapshot()?,
            tokens: self.tokens.clone(),
            logits: self.logits.clone(),
            poisoned: false,
            context_limit: self.context_limit,
        })
    }

    /// Back to a sequence without tokens.
    ///
    /// # Errors
    /// When there is no memory for the new state.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.state = self.model.executable().new_state()?;
        self.tokens.clear();
        self.logits.clear();
        self.poisoned = false;
        Ok(())
    }
}
