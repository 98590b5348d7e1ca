//! Speculative decoding: tokens are drafted cheaply and verified several at a time.
//!
//! A [`Drafter`] drafts how a text continues. The model computes all drafted tokens in one step,
//! which reads the weights once, and chooses a token from the logits before each of them. As long
//! as it chooses the drafted one, that step was worth several.
//!
//! The sampler chooses each token, with its own random numbers, from the same logits as without a
//! drafter. So a seed gives the same tokens with and without one, up to the rounding by which steps
//! of several tokens differ from steps of one. Since drafters here draft one token with certainty,
//! no other rule of acceptance (Leviathan et al., "Fast Inference from Transformers via Speculative
//! Decoding", 2023, section 2.3) accepts more.
//!
//! Besides a drafter, the model itself can draft, if its checkpoint has a head that predicts further
//! tokens ([`Generation::speculate_with_head`](crate::Generation::speculate_with_head)).
//!
//! **Going back.** After a wrong draft, recurrent tensors return to the snapshot before the step.
//! The tokens that were right don't get a step of their own: they are computed again with the next
//! one. If all layers are attention, their caches are cut.

mod draft_model;
mod lookup;

pub use draft_model::{DraftModel, check_tokenizers};
pub use lookup::PromptLookup;

use crate::Error;
use crate::backend::{BackendRun, Logits, SessionState};
use crate::prediction::Predicting;
use crate::session::Session;

/// Most tokens that a step computes again besides new ones. If there are more, they get a step
/// without drafts.
const MOST_LAG: usize = 8;

/// After this many steps in a row without a right draft, pauses stop growing.
const MOST_MISSES: u32 = 5;

/// Drafts how a sequence continues.
pub trait Drafter: Send {
    /// Drafts up to `most` tokens that may follow `tokens`; fewer or none if there is no basis. Ids
    /// outside the vocabulary are ignored.
    ///
    /// # Errors
    /// Whatever prevents drafting; the generation goes on without drafts.
    fn draft(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, Error>;
}

impl<D: Drafter + ?Sized> Drafter for &mut D {
    fn draft(&mut self, tokens: &[u32], most: usize) -> Result<Vec<u32>, Error> {
        (**self).draft(tokens, most)
    }
}

/// Statistics of speculative decoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpeculationStats {
    /// Steps of the model, including those without drafts.
    pub steps: usize,
    /// Tokens drafted.
    pub drafted: usize,
    /// Drafted tokens that were accepted.
    pub accepted: usize,
}

/// Where drafts come from.
pub(crate) enum Source<'a> {
    /// A drafter, which sees the tokens.
    Drafter(Box<dyn Drafter + 'a>),
    /// The model's prediction head, which also sees what the model computed.
    Head,
}

/// A source of drafts at work for a session.
pub(crate) struct Speculating<'a> {
    source: Source<'a>,
    /// Most drafts per step.
    most: usize,
    /// Drafts in the next step.
    next: usize,
    /// Steps in a row without a right draft.
    misses: u32,
    /// Steps to run without drafts because of these misses.
    pause: usize,
    /// The last step, if it changed the session's state.
    step: Option<SpeculativeStep>,
    pub(crate) stats: SpeculationStats,
}

/// A step that changed the state.
struct SpeculativeStep {
    /// Tokens that the state held before it.
    position: usize,
    /// The state before it, if the step had drafts.
    before: Option<Box<dyn SessionState>>,
    /// The tokens of the step.
    tokens: Vec<u32>,
    /// Logits after each of them, `[tokens, vocab]`.
    logits: Vec<f32>,
    /// How many of them the session holds.
    held: usize,
    /// How many of them are not drafts.
    sure: usize,
}

impl<'a> Speculating<'a> {
    pub(crate) fn new(source: Source<'a>, most: usize) -> Self {
        let stats = SpeculationStats::default();
        Self { source, most, next: most, misses: 0, pause: 0, step: None, stats }
    }

    /// Whether the session's state may hold more or fewer tokens than the session lists.
    pub(crate) fn is_under_way(&self) -> bool {
        self.step.is_some()
    }

    /// Feeds `token` to the session and returns the logits after it.
    ///
    /// # Errors
    /// Those of [`Session::feed`]. The session is poisoned if it fails midway.
    pub(crate) async fn take(
        &mut self,
        session: &mut Session,
        token: u32,
        room: usize,
    ) -> Result<&[f32], Error> {
        let guessed = self.step.as_ref().and_then(|step| step.tokens.get(step.held).copied());
        if guessed != Some(token) {
            self.advance(session, token, room).await?;
        } else {
            self.stats.accepted += 1;
        }
        let vocab = session.model.vocab();
        let step = self.step.as_mut().ok_or(Error::NoLogits)?;
        step.held += 1;
        session.tokens.push(token);
        step.logits.get((step.held - 1) * vocab..step.held * vocab).ok_or(Error::NoLogits)
    }

    /// Runs a step with the tokens that the state lacks, `token`, and drafts; `room` limits `token`
    /// and the drafts together.
    async fn advance(
        &mut self,
        session: &mut Session,
        token: u32,
        room: usize,
    ) -> Result<(), Error> {
        if let Some(limit) = session.context_limit.filter(|&limit| session.tokens.len() >= limit) {
            return Err(session.model.full(session.tokens.len(), 1, limit));
        }
        let position = self.go_back(session)?;
        let lag = session.tokens.len() - position;
        let room = match session.context_limit {
            Some(limit) => room.min(limit - session.tokens.len()),
            None => room,
        };
        let step_room = session.model.executable().max_step_tokens().saturating_sub(lag + 1);
        let most = self.next.min(self.most).min(room.saturating_sub(1)).min(step_room);
        let mut guesses = Vec::new();
        if self.pause > 0 {
            self.pause -= 1;
        } else if most > 0 && lag <= MOST_LAG {
            let drafted = match &mut self.source {
                Source::Drafter(drafter) => {
                    session.tokens.push(token);
                    let drafted = drafter.draft(&session.tokens, most);
                    session.tokens.pop();
                    drafted
                }
                Source::Head => {
                    let held = session.tokens.len();
                    match session.model.predicting() {
                        Some(head) => head.predict(&mut *session.state, held, token, most).await,
                        None => Err(Error::Unsupported {
                            what: "drafts of a prediction head that was not loaded",
                        }),
                    }
                }
            };
            guesses = drafted.unwrap_or_else(|error| {
                log::warn!("speculation stopped: {error}");
                self.most = 0;
                Vec::new()
            });
            guesses.truncate(most);
            let vocab = session.model.vocab();
            let known = guesses.iter().take_while(|&&id| (id as usize) < vocab).count();
            guesses.truncate(known);
        }
        self.stats.steps += 1;
        self.stats.drafted += guesses.len();
        let before = if guesses.is_empty() { None } else { Some(session.state.snapshot()?) };
        let mut tokens = session.tokens.get(position..).unwrap_or_default().to_vec();
        tokens.push(token);
        tokens.extend(guesses);
        // Cleared when everything is settled.
        session.poisoned = true;
        let mut logits = Vec::new();
        let (state, wanted) = (&mut *session.state, Logits::All);
        let run = BackendRun {
            tokens: &tokens,
            vectors: None,
            state,
            wanted,
            logits: &mut logits,
            stream: None,
        };
        session.model.executable().step(vec![run]).await?;
        self.step =
            Some(SpeculativeStep { position, before, tokens, logits, held: lag, sure: lag + 1 });
        Ok(())
    }

    /// Undoes what the state holds beyond the session's tokens. Returns how many it then holds,
    /// which may be fewer.
    fn go_back(&mut self, session: &mut Session) -> Result<usize, Error> {
        let Some(step) = self.step.take() else { return Ok(session.tokens.len()) };
        let wrong = step.tokens.len() - step.held;
        // Draft as many tokens as were right last time, and more if all were.
        let guesses = step.before.as_ref().map(|_| step.tokens.len());
        if guesses.is_some() {
            self.next =
                if wrong == 0 { self.next + 2 } else { self.next.saturating_sub(wrong) + 1 };
            self.next = self.next.max(1).min(self.most);
            // A text that can't be predicted should not pay for drafts.
            self.misses =
                if step.held > step.sure { 0 } else { (self.misses + 1).min(MOST_MISSES) };
            self.pause = (1usize << self.misses).saturating_sub(2);
        }
        if wrong == 0 {
            return Ok(session.tokens.len());
        }
        let held = session.tokens.len();
        if session.is_all_attention() && session.state.attention_floor() <= held {
            session.state.cut_attention(held)?;
            return Ok(held);
        }
        match step.before {
            Some(mut before) => {
                if session.model.predicting().is_some() {
                    Predicting::keep(&mut *before, &mut *session.state, held);
                }
                session.state = before;
                Ok(step.position)
            }
            None => Err(Error::PoisonedSession),
        }
    }

    /// Brings the session's state to its tokens, and its logits to those after the last of them.
    ///
    /// # Errors
    /// Those of a step. The session is then poisoned.
    pub(crate) async fn settle(&mut self, session: &mut Session) -> Result<(), Error> {
        let Some(step) = &self.step else { return Ok(()) };
        let vocab = session.model.vocab();
        let last = step
            .held
            .checked_sub(1)
            .and_then(|row| step.logits.get(row * vocab..(row + 1) * vocab).map(<[f32]>::to_vec));
        let position = self.go_back(session)?;
        session.set_logits(last.as_deref());
        let again = session.tokens.get(position..).unwrap_or_default();
        if !again.is_empty() {
            let (state, wanted) = (&mut *session.state, Logits::None);
            let logits = &mut Vec::new();
            let run =
                BackendRun { tokens: again, vectors: None, state, wanted, logits, stream: None };
            session.model.executable().step(vec![run]).await?;
        }
        session.poisoned = false;
        Ok(())
    }
}
