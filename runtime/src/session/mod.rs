//! [`Session`]: one sequence of tokens and its state.

#![deny(clippy::wildcard_enum_match_arm)]

pub mod batch;
mod embeddings;
mod generation;
pub(crate) mod prefix_cache;
mod retained;
pub mod saved_state;
mod snapshot;
pub mod speculate;
mod token_list;
mod vectors;

use crate::Error;
use crate::backend::{Logits, SessionState};
use crate::cancel::Cancel;
use crate::model::{Model, Run};
use crate::plan::StateKind;

pub use embeddings::FIRST_VECTOR_ID;
pub(crate) use generation::Decoding;
pub use generation::{GenerateOptions, Generation};
pub(crate) use retained::Retained;
pub use retained::{Reach, Retain};
pub(crate) use snapshot::SharedState;
pub use snapshot::Snapshot;
pub(crate) use token_list::TokenList;
pub(crate) use vectors::{VECTOR_BYTES, Vector};

/// The state of one sequence: recurrent tensors, key/value cache, tokens, last logits.
///
/// Created by [`Model::session`]. It grows by [`Session::feed`], or by [`Model::step`], which runs
/// several sessions together.
///
/// **Going back.** Keys and values are stored position by position, so attention can drop the last
/// ones. A recurrent tensor combines all tokens, so going back needs a copy. A session can
/// therefore go back to a [`Snapshot`] of it, to positions where its state was retained
/// ([`Session::mark`], [`Session::retain`]), to its beginning, and, if no layer is recurrent, to
/// any position that its caches still hold. [`Session::reach`] lists these.
/// [`Session::rewind_and_replay`] reaches every position, computing the tokens in between.
pub struct Session {
    pub(crate) model: Model,
    pub(crate) state: Box<dyn SessionState>,
    pub(crate) tokens: TokenList,
    pub(crate) logits: Vec<f32>,
    pub(crate) retained: Retained,
    pub(crate) poisoned: bool,
    pub(crate) context_limit: Option<usize>,
    pub(crate) cancel: Option<Cancel>,
}

impl Session {
    /// Feeds `tokens` and returns the logits after the last of them, `[vocab]`.
    ///
    /// # Errors
    /// If a token is out of range (nothing has changed then), there is not enough memory, or the
    /// session is poisoned.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        let model = self.model.clone();
        model.step(&mut [Run { session: self, tokens, logits: Logits::Last }])?;
        Ok(&self.logits)
    }

    /// [`Session::feed`] without blocking.
    ///
    /// # Errors
    /// Those of [`Session::feed`].
    pub async fn feed_async(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        let model = self.model.clone();
        model.step_async(&mut [Run { session: self, tokens, logits: Logits::Last }]).await?;
        Ok(&self.logits)
    }

    /// Feeds `tokens` and returns the logits after each of them, `[tokens, vocab]`.
    ///
    /// # Errors
    /// Those of [`Session::feed`].
    pub fn feed_all(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        let model = self.model.clone();
        model.step(&mut [Run { session: self, tokens, logits: Logits::All }])?;
        Ok(&self.logits)
    }

    /// Lets `cancel` stop the steps that this session takes part in, or nothing for `None`. A step
    /// of several sessions is stopped by any of their flags. A fork starts without one.
    pub fn set_cancel(&mut self, cancel: Option<Cancel>) {
        self.cancel = cancel;
    }

    /// Most tokens that the session may hold; `None` is no limit.
    pub fn context_limit(&self) -> Option<usize> {
        self.context_limit
    }

    /// The model of the session.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokens fed so far. Ids from [`FIRST_VECTOR_ID`] on stand for vectors
    /// ([`Session::feed_embeddings`]). They are valid in this process, while a session, snapshot or
    /// [`PrefixCache`](crate::PrefixCache) holds the vector's position.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens fed so far.
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// The logits that the last step computed, `[rows, vocab]`.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// The logits after the last token, if the last step computed them, or if the state that the
    /// session went back to has them.
    pub fn last_logits(&self) -> Option<&[f32]> {
        let start = self.logits.len().checked_sub(self.model.vocab())?;
        self.logits.get(start..)
    }

    /// Bytes of state held, without retained states. Constant if all layers are recurrent.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    /// Whether a step failed midway. Then only [`Session::restore`], [`Session::reset`] and going
    /// back to a retained position are possible.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// What the model's prediction head ([`ModelOptions::prediction_head`]) expects after `token`,
    /// which the session has not been fed: up to `most` tokens, fewer if the head lacks what the
    /// model computed at the session's last token. The session doesn't change.
    ///
    /// # Errors
    /// If the head was not loaded, `token` is out of range, or the session is poisoned; those of a
    /// step.
    ///
    /// [`ModelOptions::prediction_head`]: crate::ModelOptions::prediction_head
    pub fn predict(&self, token: u32, most: usize) -> Result<Vec<u32>, Error> {
        pollster::block_on(self.predict_async(token, most))
    }

    /// [`Session::predict`] without blocking.
    ///
    /// # Errors
    /// Those of [`Session::predict`].
    pub async fn predict_async(&self, token: u32, most: usize) -> Result<Vec<u32>, Error> {
        let vocab = self.model.vocab();
        if token as usize >= vocab {
            return Err(Error::TokenOutOfRange { id: token, index: 0, vocab });
        }
        if self.poisoned {
            return Err(Error::PoisonedSession);
        }
        let Some(head) = self.model.predicting() else {
            return Err(Error::Unsupported { what: "a prediction head that was not loaded" });
        };
        // The head's cache would take `token` for sure.
        let mut state = self.state.snapshot()?;
        head.predict(&mut *state, self.tokens.len(), token, most).await
    }

    /// Takes a snapshot of the session, to come back to. This is cheap: it shares memory with the
    /// session. When the session goes on, recurrent tensors are copied once, and of the caches only
    /// the pages that are written to.
    ///
    /// # Errors
    /// If the session is poisoned, or there is not enough memory.
    pub fn snapshot(&self) -> Result<Snapshot, Error> {
        if self.poisoned {
            return Err(Error::PoisonedSession);
        }
        let state = SharedState::new(self.state.snapshot()?);
        Ok(Snapshot::new(self.model.clone(), state, self.tokens.clone(), self.last_logits()))
    }

    /// Restores the session, or another one of this model, to a snapshot. A poisoned session
    /// becomes usable again. States retained within the common prefix of tokens are kept.
    ///
    /// # Errors
    /// If the snapshot is another model's, or there is not enough memory. Nothing has changed then.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        if !self.model.is(snapshot.model()) {
            return Err(Error::ForeignSession);
        }
        self.state = snapshot.state().copy()?;
        let common = common_prefix(&self.tokens, snapshot.tokens());
        self.retained.forget_after(common);
        self.tokens.clone_from(snapshot.token_list());
        self.set_logits(snapshot.last_logits());
        self.poisoned = false;
        Ok(())
    }

    /// Creates a second session that continues from here independently, with the retained states.
    ///
    /// # Errors
    /// If there is not enough memory for its state, or this session is poisoned.
    pub fn fork(&self) -> Result<Self, Error> {
        if self.poisoned {
            return Err(Error::PoisonedSession);
        }
        Ok(Self {
            model: self.model.clone(),
            state: self.state.snapshot()?,
            tokens: self.tokens.clone(),
            logits: self.logits.clone(),
            retained: self.retained.clone(),
            poisoned: false,
            context_limit: self.context_limit,
            // Cancelling one session must not cancel the other.
            cancel: None,
        })
    }

    /// Goes back to a session without tokens.
    ///
    /// # Errors
    /// If there is not enough memory for the new state.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.state = self.model.executable().new_state()?;
        self.tokens.clear();
        self.logits.clear();
        self.retained.forget_after(0);
        self.poisoned = false;
        Ok(())
    }

    /// Sets which states are retained from now on. States retained already stay, as far as the new
    /// limit allows.
    pub fn retain(&mut self, retain: Retain) {
        self.retained.set(retain);
    }

    /// Retains the current state, so that [`Session::rewind`] can come back to this position. Drops
    /// the oldest retained state if there are too many ([`Retain::points`]).
    ///
    /// # Errors
    /// If the session is poisoned, or there is not enough memory.
    pub fn mark(&mut self) -> Result<(), Error> {
        if self.poisoned {
            return Err(Error::PoisonedSession);
        }
        let state = SharedState::new(self.state.snapshot()?);
        let position = self.position();
        let logits = self.logits.len().checked_sub(self.model.vocab());
        let logits = logits.and_then(|start| self.logits.get(start..));
        self.retained.push(position, state, logits);
        Ok(())
    }

    /// Positions where the state is retained, ascending.
    pub fn marks(&self) -> impl Iterator<Item = usize> {
        self.retained.positions()
    }

    /// Bytes held only by retained states.
    pub fn retained_bytes(&self) -> usize {
        self.retained.bytes(&*self.state)
    }

    /// How far back each kind of layer can go.
    pub fn reach(&self) -> Reach {
        let (attention, recurrent) = self.kinds();
        let mut points: Vec<usize> = self.retained.positions().collect();
        points.push(0);
        if !self.poisoned {
            points.push(self.position());
        }
        points.sort_unstable();
        points.dedup();
        Reach {
            attention: (attention && !self.poisoned).then(|| self.state.attention_floor()),
            recurrent: recurrent.then(|| points.clone()),
            points,
            held: self.position(),
        }
    }

    /// Whether there are layers with keys and values, and layers with recurrent tensors.
    fn kinds(&self) -> (bool, bool) {
        let states = &self.model.plan().states;
        let is_cache = |kind: &StateKind| matches!(kind, StateKind::KeyValue { .. });
        let attention = states.iter().any(|state| is_cache(&state.kind));
        (attention, states.iter().any(|state| !is_cache(&state.kind)))
    }

    /// Whether no layer is recurrent.
    pub(crate) fn is_all_attention(&self) -> bool {
        self.kinds() == (true, false)
    }

    /// Goes back to the first `length` tokens, exactly and without computing.
    /// [`Session::last_logits`] are those of that position if they were known when its state was
    /// retained.
    ///
    /// # Errors
    /// [`Error::NotReachable`], with the nearest reachable positions; nothing has changed then. If
    /// there is not enough memory.
    pub fn rewind(&mut self, length: usize) -> Result<(), Error> {
        let held = self.position();
        let reach = self.reach();
        if !reach.contains(length) {
            let (below, above) = reach.nearest(length);
            return Err(Error::NotReachable { position: length, held, below, above });
        }
        if length == held && !self.poisoned {
            return Ok(());
        }
        if let Some(point) = self.retained.at(length) {
            self.state = point.state.copy()?;
            let logits = point.logits.clone();
            self.set_logits(logits.as_deref());
        } else if length == 0 {
            self.state = self.model.executable().new_state()?;
            self.logits.clear();
        } else {
            self.state.cut_attention(length)?;
            self.logits.clear();
        }
        self.tokens.truncate(length);
        self.retained.forget_after(length);
        self.poisoned = false;
        Ok(())
    }

    /// Goes back to the first `length` tokens, whether their state was retained or not: goes to the
    /// nearest reachable position before them and computes the rest again. [`Session::last_logits`]
    /// are known afterwards, unless `length` is 0. Returns how many tokens were computed.
    ///
    /// # Errors
    /// If the session holds fewer tokens, or vectors would have to be computed again; nothing has
    /// changed then. If there is not enough memory; the session may then hold fewer tokens than
    /// `length`.
    pub fn rewind_and_replay(&mut self, length: usize) -> Result<usize, Error> {
        let held = self.position();
        if length > held {
            let (below, above) = self.reach().nearest(length);
            return Err(Error::NotReachable { position: length, held, below, above });
        }
        let has_logits = if length == held && !self.poisoned {
            self.last_logits().is_some()
        } else {
            self.retained.at(length).is_some_and(|point| point.logits.is_some())
        };
        if length == 0 || has_logits {
            self.rewind(length)?;
            return Ok(0);
        }
        let start = self.reach().at_most(length - 1);
        let again = self.tokens.get(start..length).unwrap_or_default().to_vec();
        if again.iter().any(|&id| id >= FIRST_VECTOR_ID) {
            let (below, above) = self.reach().nearest(length);
            return Err(Error::NotReachable { position: length, held, below, above });
        }
        self.rewind(start)?;
        self.feed(&again)?;
        Ok(again.len())
    }

    pub(crate) fn set_logits(&mut self, logits: Option<&[f32]>) {
        self.logits.clear();
        self.logits.extend_from_slice(logits.unwrap_or_default());
    }
}

/// Length of the common prefix.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
