//! [`PredictingState`]: the state of a sequence in a model and in its prediction head.

use std::any::Any;

use crate::Error;
use crate::backend::{ExportFuture, PortableState, SessionState};
use crate::plan::op::StateId;

/// The state of a sequence in a model, and in the head that predicts a further token.
///
/// The head's cache is a part of the state, so whatever copies, restores or cuts the state does so
/// with both. Pair `p` is what the head reads at token `p`: the model's output there and token
/// `p + 1`. Pairs wait until there are many, or until the head is asked.
///
/// Saved sessions hold only the model's state. After loading one, the head starts with an empty
/// cache, and predicts from what follows.
pub(super) struct PredictingState {
    pub(super) model: Box<dyn SessionState>,
    pub(super) head: Box<dyn SessionState>,
    /// Tokens that the model's state holds.
    pub(super) position: usize,
    /// The first pair that the head's cache lacks.
    pub(super) first: usize,
    /// The pairs from `first` on, a row each. The last one lacks the token after it.
    pub(super) waiting: Vec<f32>,
    /// Elements of a row.
    pub(super) width: usize,
    /// Whether the head's cache is of other tokens, so that it must start anew.
    pub(super) lost: bool,
}

impl PredictingState {
    /// Number of rows that wait.
    pub(super) fn rows(&self) -> usize {
        self.waiting.len() / self.width.max(1)
    }

    /// How many tokens the head knows the model's output of.
    pub(super) fn known(&self) -> usize {
        self.first + self.rows()
    }

    /// The last row.
    pub(super) fn last(&mut self) -> Option<&mut [f32]> {
        let start = self.waiting.len().checked_sub(self.width)?;
        self.waiting.get_mut(start..)
    }

    /// Adds an empty row.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(super) fn push(&mut self) -> Result<&mut [f32], Error> {
        let len = self.waiting.len();
        self.waiting.try_reserve(self.width).map_err(|_| Error::OutOfMemory {
            what: "the input of a prediction head",
            bytes: 4 * (len + self.width),
        })?;
        self.waiting.resize(len + self.width, 0.0);
        self.waiting.get_mut(len..).ok_or(Error::NoLogits)
    }

    /// Takes the rows that `later` has of the first `tokens` tokens. `later` is the state after a
    /// step that began in this one, and whose tokens are right up to there.
    pub(super) fn keep(&mut self, later: &Self, tokens: usize) {
        let known = tokens.checked_sub(self.first).map(|rows| rows * self.width);
        // The caches are equal if no rows went from one to the other meanwhile.
        if let Some(rows) = known.and_then(|known| later.waiting.get(..known))
            && later.first == self.first
            && tokens >= self.known()
        {
            self.waiting.clear();
            self.waiting.extend_from_slice(rows);
        }
    }

    /// Forgets what the head knows. It starts with the next token.
    fn forget(&mut self) {
        self.lost = true;
        self.waiting.clear();
    }
}

impl SessionState for PredictingState {
    fn snapshot(&self) -> Result<Box<dyn SessionState>, Error> {
        Ok(Box::new(Self {
            model: self.model.snapshot()?,
            head: self.head.snapshot()?,
            position: self.position,
            first: self.first,
            waiting: self.waiting.clone(),
            width: self.width,
            lost: self.lost,
        }))
    }

    fn bytes(&self) -> usize {
        self.model.bytes() + self.head.bytes() + 4 * self.waiting.len()
    }

    fn blocks(&self, visit: &mut dyn FnMut(usize, usize)) {
        self.model.blocks(visit);
        self.head.blocks(visit);
        visit(self.waiting.as_ptr().addr(), 4 * self.waiting.len());
    }

    fn attention_floor(&self) -> usize {
        self.model.attention_floor()
    }

    fn cut_attention(&mut self, position: usize) -> Result<(), Error> {
        self.model.cut_attention(position)?;
        self.position = position;
        match position.checked_sub(self.first) {
            Some(rows) if rows > 0 => self.waiting.truncate(rows * self.width),
            _ => self.forget(),
        }
        Ok(())
    }

    fn export(&self, id: StateId) -> ExportFuture<'_> {
        self.model.export(id)
    }

    fn import(&mut self, position: usize, id: StateId, state: PortableState) -> Result<(), Error> {
        self.position = position;
        self.forget();
        self.model.import(position, id, state)
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
