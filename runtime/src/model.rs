//! [`Model`]: a checkpoint that is ready to run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kinglet_models::ModelSpec;

use crate::Error;
use crate::backend::{self, BackendRun, Executable, KernelTime, Logits, SessionState};
use crate::cancel::Cancel;
use crate::model_options::ModelOptions;
use crate::plan::Plan;
use crate::prediction::{Compiled, Predicting};
use crate::session::saved_state::Identity;
use crate::session::{Retained, Session, SharedState, TokenList, Vector};
use crate::weights::checkpoint::Checkpoint;
use crate::weights::{CheckOptions, Weights};

/// A checkpoint that is ready to run. Clones share everything.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    spec: ModelSpec,
    plan: Arc<Plan>,
    weights: Weights,
    compiled: Compiled,
    options: ModelOptions,
    identity: OnceLock<Identity>,
}

/// The part of a step that belongs to one session.
pub struct Run<'a> {
    /// The session that takes the tokens.
    pub session: &'a mut Session,
    /// Tokens to feed; at least one.
    pub tokens: &'a [u32],
    /// Which logits [`Session::logits`] holds afterwards.
    pub logits: Logits,
}

/// Vectors that a run takes in place of its tokens' embeddings.
#[derive(Clone, Copy)]
pub(crate) struct Embedded<'a> {
    /// `[tokens, width]`.
    pub(crate) floats: &'a [f32],
    /// The identity of each vector, `[tokens]`. The run's tokens are the ids of these.
    pub(crate) held: &'a [Arc<Vector>],
}

/// Opens the checkpoint in `folder` with the parts that `options` ask for.
fn checkpoint(folder: &Path, options: &ModelOptions) -> Result<Checkpoint, Error> {
    let check = CheckOptions { strict: options.strict };
    Checkpoint::open_parts(folder, check, options.prediction_head)
}

/// Snapshots of the sessions of `runs` with their logits, to undo a cancelled step. Empty if every
/// run is a single token.
fn before(runs: &[Run<'_>]) -> Result<Vec<(Box<dyn SessionState>, Vec<f32>)>, Error> {
    if runs.iter().all(|run| run.tokens.len() == 1) {
        return Ok(Vec::new());
    }
    runs.iter().map(|run| Ok((run.session.state.snapshot()?, run.session.logits.clone()))).collect()
}

impl Model {
    /// Opens the checkpoint in `folder`: `config.json` and either `model.safetensors` or the shards
    /// that `model.safetensors.index.json` names. Checks the names, shapes and types of all tensors
    /// first.
    ///
    /// # Errors
    /// If a file is missing, broken or doesn't match the others, or an option is out of range.
    pub fn open(folder: impl AsRef<Path>, options: &ModelOptions) -> Result<Self, Error> {
        Self::prepare(checkpoint(folder.as_ref(), options)?, options)
    }

    /// Opens a checkpoint with a custom backend: `compile` gets the plan and the weights, as
    /// [`backend::compile`] does, and returns the executable that computes. With
    /// [`ModelOptions::prediction_head`] it is called a second time, for the head.
    ///
    /// # Errors
    /// Those of [`Model::open`] and of `compile`.
    pub fn open_with(
        folder: impl AsRef<Path>,
        options: &ModelOptions,
        mut compile: impl FnMut(&Arc<Plan>, &Weights) -> Result<Box<dyn Executable>, Error>,
    ) -> Result<Self, Error> {
        Self::compiled(checkpoint(folder.as_ref(), options)?, options, |_, plan, weights| {
            weights.make_resident()?;
            compile(plan, weights)
        })
    }

    /// Compiles a checkpoint for the backend that `options` name.
    fn prepare(checkpoint: Checkpoint, options: &ModelOptions) -> Result<Self, Error> {
        Self::compiled(checkpoint, options, |spec, plan, weights| {
            if backend::needs_resident(options) {
                weights.make_resident()?;
            }
            backend::compile_model(plan.clone(), weights, options, Some(spec))
        })
    }

    fn compiled(
        checkpoint: Checkpoint,
        options: &ModelOptions,
        mut compile: impl FnMut(
            &ModelSpec,
            &Arc<Plan>,
            &mut Weights,
        ) -> Result<Box<dyn Executable>, Error>,
    ) -> Result<Self, Error> {
        let Checkpoint { folder, spec, mut weights, prediction_head, .. } = checkpoint;
        let plan = Arc::new(options.plan(&spec)?);
        let executable = compile(&spec, &plan, &mut weights)?;
        let compiled = match &prediction_head {
            None => Compiled::Plain(executable),
            Some(head) => {
                let plan = Arc::new(options.limited(Plan::of_prediction_head(head))?);
                let own = compile(&head.model, &plan, &mut weights)?;
                let predicting = Predicting::new(executable, own, &spec, head, &weights)?;
                Compiled::Predicting(Box::new(predicting))
            }
        };
        Ok(Self {
            shared: Arc::new(Shared {
                folder,
                spec,
                plan,
                weights,
                compiled,
                options: options.clone(),
                identity: OnceLock::new(),
            }),
        })
    }

    /// [`Model::open`] without blocking, for example in a browser. Only opening the device and its
    /// self-test are awaited; files are read and weights are uploaded synchronously.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub async fn open_async(
        folder: impl AsRef<Path>,
        options: &ModelOptions,
    ) -> Result<Self, Error> {
        // The device stays open until the model holds it.
        let device = backend::Awaited::open(options).await?;
        let checkpoint = checkpoint(folder.as_ref(), options)?;
        device.test(&checkpoint.spec, &checkpoint.weights, options).await?;
        Self::prepare(checkpoint, options)
    }

    /// Creates a session without tokens.
    ///
    /// # Errors
    /// If there is not enough memory for its state.
    pub fn session(&self) -> Result<Session, Error> {
        let limit = self.shared.options.context_limit;
        Ok(Session {
            model: self.clone(),
            state: self.executable().new_state()?,
            tokens: TokenList::default(),
            logits: Vec::new(),
            retained: Retained::default(),
            poisoned: false,
            context_limit: self.learned_positions().into_iter().chain(limit).min(),
            cancel: None,
        })
    }

    /// Feeds the tokens of all `runs` and waits. Runs share steps as far as they fit.
    ///
    /// # Errors
    /// If a run is empty, a token is out of range, or a session is full, poisoned or of another
    /// model; the sessions are then unchanged. [`Error::Cancelled`] if a session's [`Cancel`] is
    /// set; the sessions are then unchanged too. If memory runs out or (in debug builds) a result
    /// is not finite; the sessions are then poisoned.
    pub fn step(&self, runs: &mut [Run<'_>]) -> Result<(), Error> {
        pollster::block_on(self.step_async(runs))
    }

    /// [`Model::step`] without blocking.
    ///
    /// # Errors
    /// As [`Model::step`].
    pub async fn step_async(&self, runs: &mut [Run<'_>]) -> Result<(), Error> {
        for run in runs.iter() {
            self.check(run)?;
        }
        self.advance(runs, None).await
    }

    /// [`Model::step_async`] after its checks. With `vectors` there is exactly one run, which takes
    /// them in place of its tokens' embeddings.
    pub(crate) async fn advance(
        &self,
        runs: &mut [Run<'_>],
        vectors: Option<Embedded<'_>>,
    ) -> Result<(), Error> {
        // If a mapped file was truncated, reading it would kill the process; return an error
        // instead.
        self.shared.weights.check_unchanged()?;
        let cancels: Vec<Cancel> =
            runs.iter().filter_map(|run| run.session.cancel.clone()).collect();
        if cancels.iter().any(Cancel::is_set) {
            return Err(Error::Cancelled);
        }
        let before = if cancels.is_empty() { Vec::new() } else { before(runs)? };
        for run in runs.iter_mut() {
            run.session.logits.clear();
            // Cleared below if the step succeeds.
            run.session.poisoned = true;
        }
        // Steps of single tokens can't be stopped midway: that would cost a copy of the state for
        // each.
        let within = if before.is_empty() { &[][..] } else { &cancels };
        let result = self.steps(runs, vectors.map(|vectors| vectors.floats), within).await;
        let held = vectors.map_or(&[][..], |vectors| vectors.held);
        for run in runs.iter_mut() {
            let session = &mut *run.session;
            match &result {
                Ok(()) => {
                    session.tokens.extend(run.tokens, held);
                    session.poisoned = false;
                }
                // States retained during the step belong to tokens that the session doesn't hold.
                Err(_) => session.retained.forget_after(session.tokens.len()),
            }
        }
        if let Err(Error::Cancelled) = &result {
            for (run, (state, logits)) in runs.iter_mut().zip(before) {
                run.session.state = state;
                run.session.logits = logits;
                run.session.poisoned = false;
            }
        }
        result
    }

    /// Splits the runs into steps at the executable's maximum length and at positions where a
    /// session retains its state.
    async fn steps(
        &self,
        runs: &mut [Run<'_>],
        vectors: Option<&[f32]>,
        cancels: &[Cancel],
    ) -> Result<(), Error> {
        let width = self.embedding_width();
        let most = self.executable().max_step_tokens().max(1);
        let mut done = vec![0; runs.len()];
        loop {
            let mut room = most;
            let mut batch = Vec::new();
            let mut retain = vec![false; runs.len()];
            for ((run, done), retain) in runs.iter_mut().zip(&mut done).zip(&mut retain) {
                let mut take = room.min(run.tokens.len() - *done);
                if take == 0 {
                    continue;
                }
                let session = &mut *run.session;
                if let Some(next) = session.retained.until_next(session.tokens.len() + *done) {
                    take = take.min(next);
                    *retain = take == next;
                }
                let tokens = &run.tokens[*done..*done + take];
                let vectors =
                    vectors.and_then(|all| all.get(*done * width..(*done + take) * width));
                *done += take;
                room -= take;
                let wanted = match run.logits {
                    Logits::Last if *done < run.tokens.len() => Logits::None,
                    wanted => wanted,
                };
                let Session { state, logits, .. } = session;
                batch.push(BackendRun {
                    tokens,
                    vectors,
                    state: &mut **state,
                    wanted,
                    logits,
                    stream: None,
                });
            }
            if batch.is_empty() {
                return Ok(());
            }
            if cancels.iter().any(Cancel::is_set) {
                return Err(Error::Cancelled);
            }
            self.executable().step_until(batch, cancels).await?;
            for ((run, done), _) in runs.iter_mut().zip(&done).zip(retain).filter(|(_, r)| *r) {
                let session = &mut *run.session;
                let state = SharedState::new(session.state.snapshot()?);
                // The logits of this position, unless the run wants only those of later ones.
                let last = session.logits.len().checked_sub(self.vocab());
                let logits = last.and_then(|last| session.logits.get(last..));
                session.retained.push(session.tokens.len() + done, state, logits);
            }
        }
    }

    /// Checks that `session` belongs to this model and can be stepped.
    pub(crate) fn check_session(&self, session: &Session) -> Result<(), Error> {
        if !self.is(&session.model) {
            return Err(Error::ForeignSession);
        }
        if session.poisoned {
            return Err(Error::PoisonedSession);
        }
        Ok(())
    }

    /// Checks that `session` can take `more` tokens.
    pub(crate) fn check_room(&self, session: &Session, more: usize) -> Result<(), Error> {
        self.check_session(session)?;
        if more == 0 {
            return Err(Error::EmptyRun);
        }
        let held = session.tokens.len();
        match session.context_limit.filter(|&limit| held + more > limit) {
            Some(limit) => Err(self.full(held, more, limit)),
            None => Ok(()),
        }
    }

    /// Number of learned positions; `None` if a session may have any length.
    fn learned_positions(&self) -> Option<usize> {
        Some(self.spec().embedding.positions.as_ref()?.table()?.rows)
    }

    /// The error for a session of `held` tokens that can't take `more` because of its `limit`.
    pub(crate) fn full(&self, held: usize, more: usize, limit: usize) -> Error {
        match self.learned_positions() {
            Some(positions) if positions == limit => Error::PositionsFull { held, more, positions },
            _ => Error::ContextFull { held, more, limit },
        }
    }

    pub(crate) fn check(&self, run: &Run<'_>) -> Result<(), Error> {
        let vocab = self.vocab();
        self.check_room(run.session, run.tokens.len())?;
        match run.tokens.iter().position(|&id| id as usize >= vocab) {
            Some(index) => Err(Error::TokenOutOfRange { id: run.tokens[index], index, vocab }),
            None => Ok(()),
        }
    }

    /// The folder that the model was opened from.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// The spec: what the model computes.
    pub fn spec(&self) -> &ModelSpec {
        &self.shared.spec
    }

    /// The plan: how it is computed.
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.shared.weights
    }

    /// Size of the vocabulary: logits per token. Token ids are below this.
    pub fn vocab(&self) -> usize {
        self.shared.spec.vocab
    }

    /// One line about backend, device and threads, for people to read.
    pub fn describe(&self) -> String {
        self.executable().describe()
    }

    /// Threads of the host that compute.
    pub fn threads(&self) -> usize {
        self.executable().threads()
    }

    /// Whether the device can choose tokens by itself and continue with them, so that a
    /// [`Generation`](crate::Generation) runs ahead of its caller.
    pub fn decodes_ahead(&self) -> bool {
        self.executable().ahead().is_some()
    }

    /// Whether the head that predicts further tokens was loaded
    /// ([`ModelOptions::prediction_head`]).
    pub fn has_prediction_head(&self) -> bool {
        self.predicting().is_some()
    }

    /// Whether `other` is a clone of this model.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// What a saved session must match to be loaded by this model.
    pub(crate) fn identity(&self) -> Result<Identity, Error> {
        let Shared { spec, plan, weights, identity, .. } = &*self.shared;
        if let Some(identity) = identity.get() {
            return Ok(*identity);
        }
        let new = Identity::new(spec, plan, weights)?;
        Ok(*identity.get_or_init(|| new))
    }

    /// Kernels that a step launches for one run of `tokens` tokens and the logits of the last; 0 on
    /// the CPU.
    pub fn dispatches(&self, tokens: usize) -> usize {
        self.dispatches_together(&[tokens])
    }

    /// Kernels that a step launches for a run of each of these numbers of tokens, by sessions that
    /// were stepped together before, and the logits of each one's last token; 0 on the CPU.
    pub fn dispatches_together(&self, runs: &[usize]) -> usize {
        self.executable().dispatches(runs)
    }

    /// Measured bandwidth of the device's memory, in bytes per second; `None` on the CPU.
    ///
    /// # Errors
    /// If there is not enough memory to measure with, or the device fails.
    pub fn memory_bandwidth(&self) -> Result<Option<f64>, Error> {
        self.executable().memory_bandwidth()
    }

    /// Measures the time of each kernel for a step of `tokens` after `depth` earlier tokens, in a
    /// new session. Slowest first. The step is that of [`Model::step`], with its kernels run one by
    /// one.
    ///
    /// # Errors
    /// If the backend can't measure, and those of [`Model::step`].
    pub fn profile(&self, depth: &[u32], tokens: &[u32]) -> Result<Vec<KernelTime>, Error> {
        let mut session = self.session()?;
        if !depth.is_empty() {
            session.feed(depth)?;
        }
        self.check(&Run { session: &mut session, tokens, logits: Logits::Last })?;
        let (state, wanted) = (&mut *session.state, Logits::Last);
        let logits = &mut session.logits;
        let run = BackendRun { tokens, vectors: None, state, wanted, logits, stream: None };
        pollster::block_on(self.executable().profile(vec![run]))
    }

    /// Makes the device fail as if it had been unplugged. Does nothing on the CPU.
    #[cfg(feature = "testing")]
    pub fn lose_device(&self) {
        self.executable().lose_device();
    }

    /// Bytes allocated for the recurrent tensors of all sessions, with what is not in use; 0 on the
    /// CPU.
    #[cfg(feature = "testing")]
    pub fn tensor_bytes(&self) -> usize {
        self.executable().tensor_bytes()
    }

    pub(crate) fn executable(&self) -> &dyn Executable {
        self.shared.compiled.executable()
    }

    /// The head that predicts further tokens, if it was loaded.
    pub(crate) fn predicting(&self) -> Option<&Predicting> {
        self.shared.compiled.predicting()
    }
}
