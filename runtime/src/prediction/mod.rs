//! [`Predicting`]: an executable together with the head of its checkpoint that predicts the token
//! after the next one ([`PredictionHead`]).
//!
//! The head is a plan of its own: it takes vectors instead of tokens, and shares embedding and
//! output matrix with the model. A step of the model also returns its residual stream, of which the
//! host makes the head's rows. That costs a copy and three norms of a row per token.
//!
//! - `pairs.rs` makes the rows.
//! - `state.rs` keeps the head's cache with the model's state.

mod pairs;
mod state;

use kinglet_models::{ModelSpec, PredictionHead};

use self::pairs::{Pairs, Stream};
use self::state::PredictingState;
use crate::Error;
use crate::backend::{
    Ahead, BackendRun, Executable, Logits, ProfileFuture, SessionState, StepFuture, TokenChoice,
    TokenFuture,
};
use crate::cancel::Cancel;
use crate::weights::Weights;

/// Rows that may wait for the head after a step. More are computed at once, so that a long prompt
/// does not collect its rows. Above the tokens of a step with drafts, so that the caches before and
/// after such a step are equal.
const MOST_WAITING: usize = 256;

/// A model that can predict further tokens.
pub(crate) struct Predicting {
    model: Box<dyn Executable>,
    head: Box<dyn Executable>,
    pairs: Pairs,
}

/// A run whose state is taken apart.
struct Part<'a> {
    state: &'a mut PredictingState,
    run: Taken<'a>,
    stream: Vec<f32>,
}

/// A run without its state.
struct Taken<'a> {
    tokens: &'a [u32],
    vectors: Option<&'a [f32]>,
    wanted: Logits,
    logits: &'a mut Vec<f32>,
    stream: Option<&'a mut Vec<f32>>,
}

fn own(state: &mut dyn SessionState) -> Result<&mut PredictingState, Error> {
    state.as_any_mut().downcast_mut().ok_or(Error::ForeignSession)
}

impl Predicting {
    /// Joins a model and the executable of its head.
    ///
    /// # Errors
    /// If a norm can't be read.
    pub(crate) fn new(
        model: Box<dyn Executable>,
        head: Box<dyn Executable>,
        spec: &ModelSpec,
        prediction: &PredictionHead,
        weights: &Weights,
    ) -> Result<Self, Error> {
        Ok(Self { model, head, pairs: Pairs::new(spec, prediction, weights)? })
    }

    /// Predicts up to `most` tokens after `token`, which follows the first `held` tokens of the
    /// sequence and is not in its state yet. None if the head lacks what the model computed there.
    ///
    /// # Errors
    /// Those of a step. The state is still valid for the model.
    pub(crate) async fn predict(
        &self,
        state: &mut dyn SessionState,
        held: usize,
        token: u32,
        most: usize,
    ) -> Result<Vec<u32>, Error> {
        let state = own(state)?;
        if most == 0 || state.rows() == 0 || state.known() != held {
            return Ok(Vec::new());
        }
        if let Some(last) = state.last() {
            self.pairs.write_token(token, last)?;
        }
        let mut row = vec![0.0; self.pairs.width()];
        let rows = state.rows();
        let mut next = self.compute(state, rows, Some(&mut row)).await?;
        // What follows are guesses, which the cache must not keep.
        let sure = if most > 1 { Some(state.head.snapshot()?) } else { None };
        let mut all = Vec::new();
        while let Some(id) = next.take() {
            all.push(id);
            if all.len() < most {
                self.pairs.write_token(id, &mut row)?;
                let vectors = std::mem::take(&mut row);
                row = vec![0.0; self.pairs.width()];
                next = self.step(&mut *state.head, &vectors, Some(&mut row)).await?;
            }
        }
        if let Some(sure) = sure {
            state.head = sure;
        }
        Ok(all)
    }

    /// Lets the head compute the first `rows` rows that wait. With `next` it predicts a token after
    /// the last of them, and writes the part of the next row that it knows by then.
    async fn compute(
        &self,
        state: &mut PredictingState,
        rows: usize,
        mut next: Option<&mut [f32]>,
    ) -> Result<Option<u32>, Error> {
        let (width, most) = (self.pairs.width(), self.head.max_step_tokens().max(1));
        let mut done = 0;
        let mut predicted = None;
        while done < rows {
            let count = most.min(rows - done);
            let own = done * width..(done + count) * width;
            let vectors = state.waiting.get(own).unwrap_or_default();
            done += count;
            let next = if done == rows { next.take() } else { None };
            predicted = self.step(&mut *state.head, vectors, next).await?;
        }
        state.waiting.drain(..rows * width);
        state.first += rows;
        Ok(predicted)
    }

    /// A step of the head.
    async fn step(
        &self,
        state: &mut dyn SessionState,
        vectors: &[f32],
        next: Option<&mut [f32]>,
    ) -> Result<Option<u32>, Error> {
        let tokens = vec![0; vectors.len() / self.pairs.width()];
        let (mut logits, mut stream) = (Vec::new(), Vec::new());
        let wanted = if next.is_some() { Logits::Last } else { Logits::None };
        let run = BackendRun {
            tokens: &tokens,
            vectors: Some(vectors),
            state,
            wanted,
            logits: &mut logits,
            stream: next.is_some().then_some(&mut stream),
        };
        self.head.step(vec![run]).await?;
        let Some(next) = next else { return Ok(None) };
        if let Some(last) = stream.rchunks_exact(self.pairs.hidden()).next() {
            self.pairs.write_stream(Stream::Head, last, next);
        }
        let best = (0u32..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        Ok(best.map(|(id, _)| id))
    }

    /// Takes over what a state after a step knows, into the state before it: see
    /// [`PredictingState::keep`].
    pub(crate) fn keep(before: &mut dyn SessionState, after: &mut dyn SessionState, tokens: usize) {
        if let (Ok(before), Ok(after)) = (own(before), own(after)) {
            before.keep(after, tokens);
        }
    }

    async fn run(&self, runs: Vec<BackendRun<'_>>, cancels: &[Cancel]) -> Result<(), Error> {
        let mut parts = Vec::with_capacity(runs.len());
        for run in runs {
            let BackendRun { tokens, vectors, state, wanted, logits, stream } = run;
            let run = Taken { tokens, vectors, wanted, logits, stream };
            parts.push(Part { state: own(state)?, run, stream: Vec::new() });
        }
        let inner = parts.iter_mut().map(|Part { state, run, stream }| BackendRun {
            tokens: run.tokens,
            vectors: run.vectors,
            state: &mut *state.model,
            wanted: run.wanted,
            logits: &mut *run.logits,
            stream: Some(stream),
        });
        self.model.step_until(inner.collect(), cancels).await?;
        for Part { state, run, stream } in parts {
            self.take(state, &run, &stream).await?;
            if let Some(wanted) = run.stream {
                wanted.extend(stream);
            }
        }
        Ok(())
    }

    /// Adds rows for the tokens of a run, which the model has just computed.
    async fn take(
        &self,
        state: &mut PredictingState,
        run: &Taken<'_>,
        stream: &[f32],
    ) -> Result<(), Error> {
        let (position, hidden) = (state.position, self.pairs.hidden());
        // Tokens in between are missing if the sequence was loaded, or ran ahead.
        if state.lost || position > state.known() {
            state.head = self.head.new_state()?;
            state.waiting.clear();
            (state.first, state.lost) = (position, false);
        }
        for (index, (&token, stream)) in
            run.tokens.iter().zip(stream.chunks_exact(hidden)).enumerate()
        {
            // Some tokens are computed a second time, after the state went back.
            if position + index < state.known() {
                continue;
            }
            let vector = run.vectors.and_then(|all| all.chunks_exact(hidden).nth(index));
            if let Some(last) = state.last() {
                match vector {
                    Some(vector) => self.pairs.write_vector(vector, last),
                    None => self.pairs.write_token(token, last)?,
                }
            }
            self.pairs.write_stream(Stream::Model, stream, state.push()?);
        }
        state.position += run.tokens.len();
        if state.rows() > MOST_WAITING {
            self.compute(state, state.rows() - 1, None).await?;
        }
        Ok(())
    }
}

impl Executable for Predicting {
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error> {
        Ok(Box::new(PredictingState {
            model: self.model.new_state()?,
            head: self.head.new_state()?,
            position: 0,
            first: 0,
            waiting: Vec::new(),
            width: self.pairs.width(),
            lost: false,
        }))
    }

    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a> {
        Box::pin(self.run(runs, &[]))
    }

    fn step_until<'a>(
        &'a self,
        runs: Vec<BackendRun<'a>>,
        cancels: &'a [Cancel],
    ) -> StepFuture<'a> {
        Box::pin(self.run(runs, cancels))
    }

    fn profile<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> ProfileFuture<'a> {
        Box::pin(async move {
            let mut inner = Vec::with_capacity(runs.len());
            for run in runs {
                let state = own(run.state)?;
                state.position += run.tokens.len();
                inner.push(BackendRun { state: &mut *state.model, ..run });
            }
            self.model.profile(inner).await
        })
    }

    fn memory_bandwidth(&self) -> Result<Option<f64>, Error> {
        self.model.memory_bandwidth()
    }

    #[cfg(feature = "testing")]
    fn lose_device(&self) {
        self.model.lose_device();
        self.head.lose_device();
    }

    fn ahead(&self) -> Option<Box<dyn Ahead>> {
        Some(Box::new(PlainAhead(self.model.ahead()?)))
    }

    fn describe(&self) -> String {
        self.model.describe()
    }

    fn threads(&self) -> usize {
        self.model.threads()
    }

    fn max_step_tokens(&self) -> usize {
        self.model.max_step_tokens()
    }

    fn dispatches(&self, runs: &[usize]) -> usize {
        self.model.dispatches(runs)
    }

    #[cfg(feature = "testing")]
    fn tensor_bytes(&self) -> usize {
        self.model.tensor_bytes() + self.head.tensor_bytes()
    }
}

/// The model's steps ahead of the host. Their residual stream stays on the device, so the head
/// starts anew after them.
struct PlainAhead(Box<dyn Ahead>);

impl Ahead for PlainAhead {
    fn can(&self, choice: &TokenChoice) -> bool {
        self.0.can(choice)
    }

    fn submit<'a>(
        &'a mut self,
        token: Option<u32>,
        state: &'a mut dyn SessionState,
        choice: TokenChoice,
    ) -> StepFuture<'a> {
        Box::pin(async move {
            let state = own(state)?;
            state.position += 1;
            self.0.submit(token, &mut *state.model, choice).await
        })
    }

    fn next(&mut self) -> TokenFuture<'_> {
        self.0.next()
    }

    fn under_way(&self) -> usize {
        self.0.under_way()
    }
}

/// What a model computes with.
pub(crate) enum Compiled {
    /// The model alone.
    Plain(Box<dyn Executable>),
    /// The model and its prediction head.
    Predicting(Box<Predicting>),
}

impl Compiled {
    /// As an executable.
    pub(crate) fn executable(&self) -> &dyn Executable {
        match self {
            Self::Plain(executable) => &**executable,
            Self::Predicting(predicting) => &**predicting,
        }
    }

    /// The prediction head, if it was loaded.
    pub(crate) fn predicting(&self) -> Option<&Predicting> {
        match self {
            Self::Plain(_) => None,
            Self::Predicting(predicting) => Some(predicting),
        }
    }
}
