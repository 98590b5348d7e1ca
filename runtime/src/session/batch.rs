//! Continuous batching: many sessions generate together, and join and leave between steps.
//!
//! A step reads the weights once, however many sessions take part, so many sessions together are
//! far faster than one after the other. Each step of a [`Batch`] takes one token of every session
//! that generates, and as much of the prompts of sessions that have just joined as fits. No session
//! waits for the longest answer, and a long prompt doesn't delay the others.
//!
//! Each sequence's own sampler chooses its tokens from its own logits. A sequence therefore gets
//! the answer that its session would give alone, up to the rounding by which steps of several
//! tokens differ from steps of one.
//!
//! ```no_run
//! use kinglet::sampling::{Sampler, SamplingOptions};
//! use kinglet::{Batch, BatchOptions, GenerateOptions, Model, ModelOptions, Outcome};
//!
//! let model = Model::open("path/to/model", &ModelOptions::new())?;
//! let mut batch = Batch::new(&model, BatchOptions::new());
//! for prompt in [[1, 2, 3], [4, 5, 6]] {
//!     let sampler = Sampler::new(SamplingOptions::greedy(), 0)?;
//!     batch.join(model.session()?, &prompt, sampler, GenerateOptions::new().max_tokens(20))?;
//! }
//! while batch.is_busy() {
//!     for event in batch.step()? {
//!         match event.outcome {
//!             Outcome::Token(token) => println!("{:?}: {token}", event.id),
//!             // Another may join in its place at once.
//!             Outcome::Finished => drop(batch.leave(event.id)),
//!             Outcome::Failed(error) => eprintln!("{:?}: {error}", event.id),
//!             _ => {}
//!         }
//!     }
//! }
//! # Ok::<(), kinglet::Error>(())
//! ```

use crate::Error;
use crate::backend::Logits;
use crate::cancel::Cancel;
use crate::model::{Model, Run};
use crate::sampling::Sampler;
use crate::session::{GenerateOptions, Session};

/// How a [`Batch`] composes its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchOptions {
    /// Most sequences that take part in a step. Further ones wait, in the order in which they
    /// joined, until one ends. At least 1; 64 by default.
    pub sequences: usize,
    /// Most tokens in a step. Each sequence that generates takes one. Prompts share what is left,
    /// but at least one token. Larger values speed up prompts, smaller ones steady the other
    /// sequences. 256 by default.
    pub step_tokens: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { sequences: 64, step_tokens: 256 }
    }
}

impl BatchOptions {
    /// The defaults: 64 sequences, 256 tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Self::sequences`].
    pub fn sequences(mut self, most: usize) -> Self {
        self.sequences = most;
        self
    }

    /// Sets [`Self::step_tokens`].
    pub fn step_tokens(mut self, most: usize) -> Self {
        self.step_tokens = most;
        self
    }
}

/// Identifies a sequence of a [`Batch`]. Ids are never reused within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// The outcome of a step for one sequence.
#[derive(Debug)]
pub struct BatchEvent {
    /// The sequence.
    pub id: SequenceId,
    /// The outcome.
    pub outcome: Outcome,
}

/// The outcomes of a step for a sequence.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It generated this token.
    Token(u32),
    /// It has generated all its tokens, and takes part in no further step.
    Finished,
    /// It can't go on, and takes part in no further step; the other sequences are unaffected. One
    /// of [`Error::ContextFull`], [`Error::Cancelled`] (by its session's flag),
    /// [`Error::NoLogits`], [`Error::PoisonedSession`] (after a step that failed) and
    /// [`Error::Sampling`].
    Failed(Error),
}

/// What [`Batch::leave`] returns.
pub struct LeftSequence {
    /// The session. It holds all tokens but the last generated one, as after a
    /// [`Generation`](crate::Generation), or the part of the prompt fed so far.
    pub session: Session,
    /// The sampler, with the tokens it chose in its history.
    pub sampler: Sampler,
    /// Tokens of the prompt that were not fed to the session.
    pub rest: Vec<u32>,
}

/// Sessions of one model that generate together: see [the module](self).
pub struct Batch {
    model: Model,
    options: BatchOptions,
    /// In the order in which they joined.
    sequences: Vec<Sequence>,
    next: u64,
    /// Events for the next successful step to return.
    events: Vec<BatchEvent>,
}

struct Sequence {
    id: SequenceId,
    session: Session,
    sampler: Sampler,
    prompt: Vec<u32>,
    /// Number of prompt tokens fed to the session.
    fed: usize,
    /// The last generated token, which is not fed to the session yet.
    pending: Option<u32>,
    /// Tokens that may still be generated.
    room: usize,
    /// Whether it takes part in further steps.
    going: bool,
    /// Number of its tokens in the next step.
    share: usize,
}

impl Batch {
    /// Creates a batch without sequences.
    pub fn new(model: &Model, options: BatchOptions) -> Self {
        Self { model: model.clone(), options, sequences: Vec::new(), next: 0, events: Vec::new() }
    }

    /// Adds `session`: from the next step on it is fed `prompt` and then generates with `sampler`.
    /// A session that has logits needs no prompt. [`GenerateOptions::ahead`] has no effect here.
    ///
    /// # Errors
    /// If the session is another model's or poisoned, if the prompt has a token that the model
    /// doesn't have or doesn't fit into the session, or if there is neither a prompt nor logits.
    pub fn join(
        &mut self,
        mut session: Session,
        prompt: &[u32],
        sampler: Sampler,
        options: GenerateOptions,
    ) -> Result<SequenceId, Error> {
        if prompt.is_empty() {
            self.model.check_session(&session)?;
            session.last_logits().ok_or(Error::NoLogits)?;
        } else {
            let run = Run { session: &mut session, tokens: prompt, logits: Logits::Last };
            self.model.check(&run)?;
        }
        let id = SequenceId(self.next);
        self.next += 1;
        self.sequences.push(Sequence {
            id,
            session,
            sampler,
            prompt: prompt.to_vec(),
            fed: 0,
            pending: None,
            room: options.max_tokens,
            going: true,
            share: 0,
        });
        Ok(id)
    }

    /// Removes a sequence at any point. `None` if there is no such sequence, or it has left.
    pub fn leave(&mut self, id: SequenceId) -> Option<LeftSequence> {
        let index = self.sequences.iter().position(|sequence| sequence.id == id)?;
        let Sequence { session, sampler, mut prompt, fed, .. } = self.sequences.remove(index);
        prompt.drain(..fed);
        Some(LeftSequence { session, sampler, rest: prompt })
    }

    /// The sequences in the batch, in the order in which they joined.
    pub fn ids(&self) -> impl Iterator<Item = SequenceId> {
        self.sequences.iter().map(|sequence| sequence.id)
    }

    /// The session of a sequence, in the state that [`LeftSequence::session`] would have.
    pub fn session(&self, id: SequenceId) -> Option<&Session> {
        self.sequences.iter().find(|sequence| sequence.id == id).map(|sequence| &sequence.session)
    }

    /// Whether another step has work to do or events to return.
    pub fn is_busy(&self) -> bool {
        !self.events.is_empty() || self.sequences.iter().any(|sequence| sequence.going)
    }

    /// Runs one step of all sequences that take part, and returns what happened to each. Sequences
    /// whose prompts go on have no event.
    ///
    /// # Errors
    /// Those of [`Model::step`]. The sessions that took part are then poisoned, and the next step
    /// reports each of them as failed.
    pub fn step(&mut self) -> Result<Vec<BatchEvent>, Error> {
        pollster::block_on(self.step_async())
    }

    /// [`Batch::step`] without blocking.
    ///
    /// # Errors
    /// Those of [`Batch::step`].
    pub async fn step_async(&mut self) -> Result<Vec<BatchEvent>, Error> {
        loop {
            self.assign_shares();
            let mut runs: Vec<Run<'_>> =
                self.sequences.iter_mut().filter_map(Sequence::run).collect();
            if runs.is_empty() {
                break;
            }
            match self.model.step_async(&mut runs).await {
                Ok(()) => break,
                // Nothing has changed: run the step again without the cancelled sequences.
                Err(Error::Cancelled) => {}
                Err(error) => return Err(error),
            }
        }
        for sequence in &mut self.sequences {
            sequence.finish_step(&mut self.events);
        }
        Ok(std::mem::take(&mut self.events))
    }

    /// Sets how many tokens of each sequence the next step takes.
    fn assign_shares(&mut self) {
        for sequence in &mut self.sequences {
            sequence.share = 0;
            if sequence.going
                && let Err(error) = sequence.can_go_on()
            {
                sequence.end(Outcome::Failed(error), &mut self.events);
            }
        }
        let most = self.options.sequences.max(1);
        let taking_part = || |sequence: &&mut Sequence| sequence.going;
        let mut generating = 0;
        for sequence in self.sequences.iter_mut().filter(taking_part()).take(most) {
            sequence.share = usize::from(sequence.pending.is_some());
            generating += sequence.share;
        }
        // Prompts progress however many sequences generate.
        let mut room = self.options.step_tokens.saturating_sub(generating).max(1);
        for sequence in self.sequences.iter_mut().filter(taking_part()).take(most) {
            if sequence.pending.is_none() {
                sequence.share = room.min(sequence.prompt.len() - sequence.fed);
                room -= sequence.share;
            }
        }
    }
}

impl Sequence {
    /// Checks whether the sequence can take part in another step.
    fn can_go_on(&self) -> Result<(), Error> {
        let session = &self.session;
        if session.cancel.as_ref().is_some_and(Cancel::is_set) {
            return Err(Error::Cancelled);
        }
        if session.poisoned {
            return Err(Error::PoisonedSession);
        }
        // `join` checked that the prompt fits.
        let (held, more) = (session.tokens.len(), usize::from(self.pending.is_some()));
        match session.context_limit.filter(|&limit| held + more > limit) {
            Some(limit) => Err(session.model.full(held, more, limit)),
            None => Ok(()),
        }
    }

    /// The sequence's run in the step.
    fn run(&mut self) -> Option<Run<'_>> {
        let Self { session, prompt, fed, pending, share, .. } = self;
        let (tokens, rest) = match pending {
            Some(token) => (&std::slice::from_ref(token)[..*share], 0),
            None => (prompt.get(*fed..*fed + *share)?, prompt.len() - *fed - *share),
        };
        let logits = if rest == 0 { Logits::Last } else { Logits::None };
        (!tokens.is_empty()).then_some(Run { session, tokens, logits })
    }

    /// After the step: advances by its share, and chooses the next token if there are logits.
    fn finish_step(&mut self, events: &mut Vec<BatchEvent>) {
        let share = std::mem::take(&mut self.share);
        if !self.going {
            return;
        }
        match self.pending {
            Some(_) if share == 0 => return,
            Some(_) => self.pending = None,
            None => self.fed += share,
        }
        // A sequence still waiting has part of its prompt left, or starts from its own logits.
        if self.fed < self.prompt.len() {
            return;
        }
        if self.room == 0 {
            return self.end(Outcome::Finished, events);
        }
        let logits = self.session.last_logits().ok_or(Error::NoLogits);
        match logits.and_then(|logits| Ok(self.sampler.sample(logits)?)) {
            Ok(token) => {
                self.sampler.accept(token);
                self.pending = Some(token);
                self.room -= 1;
                events.push(BatchEvent { id: self.id, outcome: Outcome::Token(token) });
                if self.room == 0 {
                    self.end(Outcome::Finished, events);
                }
            }
            Err(error) => self.end(Outcome::Failed(error), events),
        }
    }

    fn end(&mut self, outcome: Outcome, events: &mut Vec<BatchEvent>) {
        self.going = false;
        events.push(BatchEvent { id: self.id, outcome });
    }
}
