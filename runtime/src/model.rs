//! [`Model`]: a checkpoint made ready to run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kinglet_models::ModelSpec;

use crate::Error;
use crate::backend::{self, BackendRun, Executable, KernelTime, Logits, SessionState};
use crate::cancel::Cancel;
use crate::model_options::ModelOptions;
use crate::plan::Plan;
use crate::session::saved_state::Identity;
use crate::session::{Retained, Session, SharedState, Taken, Vector};
use crate::weights::checkpoint::Checkpoint;
use crate::weights::{CheckOptions, Weights};

/// A checkpoint made ready to run. Clones share everything.
#[derive(Clone)]
pub struct Model {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    spec: ModelSpec,
    plan: Arc<Plan>,
    weights: Weights,
    executable: Box<dyn Executable>,
    options: ModelOptions,
    identity: OnceLock<Identity>,
}

/// One session's share of a step.
pub struct Run<'a> {
    /// The session that takes the tokens.
    pub session: &'a mut Session,
    /// At least one.
    pub tokens: &'a [u32],
    /// What [`Session::logits`] holds afterwards.
    pub logits: Logits,
}

/// Vectors that a run takes in place of its tokens.
#[derive(Clone, Copy)]
pub(crate) struct Embedded<'a> {
    /// `[tokens, width]`.
    pub(crate) floats: &'a [f32],
    /// Their identities, `[tokens]`: the run's tokens are their ids.
    pub(crate) held: &'a [Arc<Vector>],
}

/// What the sessions of `runs` are, to come back to: nothing where every run is a single token.
fn before(runs: &[Run<'_>]) -> Result<Vec<(Box<dyn SessionState>, Vec<f32>)>, Error> {
    if runs.iter().all(|run| run.tokens.len() == 1) {
        return Ok(Vec::new());
    }
    runs.iter().map(|run| Ok((run.session.state.snapshot()?, run.session.logits.clone()))).collect()
}

impl Model {
    /// Opens the checkpoint in `folder`: `config.json` and `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names. Names, shapes and types of all tensors are checked first.
    ///
    /// # Errors
    /// When a file is missing, broken or doesn't fit the others, or an option is out of range.
    pub fn open(folder: impl AsRef<Path>, options: &ModelOptions) -> Result<Self, Error> {
        let check = CheckOptions { strict: options.strict };
        Self::prepare(Checkpoint::open(folder, check)?, options)
    }

    /// [`Model::open`] on a backend of the caller's: `compile` is given the plan and the weights in place of
    /// [`backend::compile`], and what it returns computes.
    ///
    /// # Errors
    /// As [`Model::open`], and those of `compile`.
    pub fn open_with(
        folder: impl AsRef<Path>,
        options: &ModelOptions,
        compile: impl FnOnce(&Arc<Plan>, &Weights) -> Result<Box<dyn Executable>, Error>,
    ) -> Result<Self, Error> {
        let check = CheckOptions { strict: options.strict };
        Self::compiled(Checkpoint::open(folder, check)?, options, |_, plan, weights| {
            weights.make_resident()?;
            compile(plan, weights)
        })
    }

    /// Makes a checkpoint ready to run on the backend that `options` name.
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
        compile: impl FnOnce(&ModelSpec, &Arc<Plan>, &mut Weights) -> Result<Box<dyn Executable>, Error>,
    ) -> Result<Self, Error> {
        let Checkpoint { folder, spec, mut weights, .. } = checkpoint;
        let plan = Arc::new(options.plan(&spec)?);
        let executable = compile(&spec, &plan, &mut weights)?;
        Ok(Self {
            shared: Arc::new(Shared {
                folder,
                spec,
                plan,
                weights,
                executable,
                options: options.clone(),
                identity: OnceLock::new(),
            }),
        })
    }

    /// [`Model::open`] where nobody can wait for a device, as in a browser. Only that is waited for, and its test: files are read and weights
    /// brought to the device at once.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub async fn open_async(
        folder: impl AsRef<Path>,
        options: &ModelOptions,
    ) -> Result<Self, Error> {
        let check = CheckOptions { strict: options.strict };
        // It stays open until the model has it.
        let device = backend::Awaited::open(options).await?;
        let checkpoint = Checkpoint::open(folder, check)?;
        device.test(&checkpoint.spec, &checkpoint.weights, options).await?;
        Self::prepare(checkpoint, options)
    }

    /// A session without tokens.
    ///
    /// # Errors
    /// When there is no memory for its state.
    pub fn session(&self) -> Result<Session, Error> {
        Ok(Session {
            model: self.clone(),
            state: self.shared.executable.new_state()?,
            tokens: Taken::default(),
            logits: Vec::new(),
            retained: Retained::default(),
            poisoned: false,
            context_limit: self.shared.options.context_limit,
            cancel: None,
        })
    }

    /// Runs the tokens of all `runs`, together as far as they fit into a step, and waits for them.
    ///
    /// # Errors
    /// When a run is empty, a token is out of range, a session is full, poisoned or another model's: then
    /// nothing has changed. When memory runs out or (in debug builds) a result is not finite: then the sessions
    /// of the runs are poisoned. [`Error::Cancelled`] by a session's [`Cancel`]: then nothing has changed either.
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

    /// What [`Model::step_async`] does once all is checked. With `vectors` there is one run, and they are taken in place of its tokens.
    pub(crate) async fn advance(
        &self,
        runs: &mut [Run<'_>],
        vectors: Option<Embedded<'_>>,
    ) -> Result<(), Error> {
        // A mapped file that was cut short would end the process where it is read: an error is better.
        self.shared.weights.check_unchanged()?;
        let cancels: Vec<Cancel> =
            runs.iter().filter_map(|run| run.session.cancel.clone()).collect();
        if cancels.iter().any(Cancel::is_set) {
            return Err(Error::Cancelled);
        }
        let before = if cancels.is_empty() { Vec::new() } else { before(runs)? };
        for run in runs.iter_mut() {
            run.session.logits.clear();
            // Cleared again only when all has gone well.
            run.session.poisoned = true;
        }
        // A single token is not stopped on the way: it would cost a copy of the state for each.
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
                // What was retained on the way belongs to tokens that the session does not have.
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

    /// Cuts the runs into steps, at the length that the executable takes and where a session retains its state.
    async fn steps(
        &self,
        runs: &mut [Run<'_>],
        vectors: Option<&[f32]>,
        cancels: &[Cancel],
    ) -> Result<(), Error> {
        let width = self.embedding_width();
        let most = self.shared.executable.max_step_tokens().max(1);
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
                batch.push(BackendRun { tokens, vectors, state: &mut **state, wanted, logits });
            }
            if batch.is_empty() {
                return Ok(());
            }
            if cancels.iter().any(Cancel::is_set) {
                return Err(Error::Cancelled);
            }
            self.shared.executable.step_until(batch, cancels).await?;
            for ((run, done), _) in runs.iter_mut().zip(&done).zip(retain).filter(|(_, r)| *r) {
                let session = &mut *run.session;
                let state = SharedState::new(session.state.snapshot()?);
                // Logits of this position, unless only later ones were asked for.
                let last = session.logits.len().checked_sub(self.vocab());
                let logits = last.and_then(|last| session.logits.get(last..));
                session.retained.push(session.tokens.len() + done, state, logits);
            }
        }
    }

    /// Whether a session can go on here.
    pub(crate) fn check_session(&self, session: &Session) -> Result<(), Error> {
        if !self.is(&session.model) {
            return Err(Error::ForeignSession);
        }
        if session.poisoned {
            return Err(Error::PoisonedSession);
        }
        Ok(())
    }

    /// Whether a session can take so many tokens.
    pub(crate) fn check_room(&self, session: &Session, more: usize) -> Result<(), Error> {
        self.check_session(session)?;
        if more == 0 {
            return Err(Error::EmptyRun);
        }
        let held = session.tokens.len();
        match session.context_limit.filter(|&limit| held + more > limit) {
            Some(limit) => Err(Error::ContextFull { held, more, limit }),
            None => Ok(()),
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

    /// The folder that it was opened from.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// What it computes.
    pub fn spec(&self) -> &ModelSpec {
        &self.shared.spec
    }

    /// How it is computed.
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights {
        &self.shared.weights
    }

    /// Logits per token; token ids are below this.
    pub fn vocab(&self) -> usize {
        self.shared.spec.vocab
    }

    /// Backend, device, threads: a line for people.
    pub fn describe(&self) -> String {
        self.shared.executable.describe()
    }

    /// Threads of the host that compute.
    pub fn threads(&self) -> usize {
        self.shared.executable.threads()
    }

    /// Whether the device can choose tokens by itself and go on with them, so that a
    /// [`Generation`](crate::Generation) is ahead of its caller.
    pub fn decodes_ahead(&self) -> bool {
        self.shared.executable.ahead().is_some()
    }

    /// Whether the other one shares everything with this.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// What must be the same for a saved state to be this model's.
    pub(crate) fn identity(&self) -> Result<Identity, Error> {
        let Shared { spec, plan, weights, identity, .. } = &*self.shared;
        if let Some(identity) = identity.get() {
            return Ok(*identity);
        }
        let new = Identity::new(spec, plan, weights)?;
        Ok(*identity.get_or_init(|| new))
    }

    /// Kernels that a step launches on a device for one run of `tokens` and the logits of the last; 0 on the CPU.
    pub fn dispatches(&self, tokens: usize) -> usize {
        self.shared.executable.dispatches(tokens)
    }

    /// Bytes that the device's memory reads and writes per second; `None` on the CPU.
    ///
    /// # Errors
    /// When there is no memory to measure with, or the device fails.
    pub fn memory_bandwidth(&self) -> Result<Option<f64>, Error> {
        self.shared.executable.memory_bandwidth()
    }

    /// Runs `tokens` through a session of its own behind `depth` others and gives the time of each kernel, the longest
    /// first: a step as [`Model::step`] computes it, its kernels one by one.
    ///
    /// # Errors
    /// When the backend can't measure, and as [`Model::step`].
    pub fn profile(&self, depth: &[u32], tokens: &[u32]) -> Result<Vec<KernelTime>, Error> {
        let mut session = self.session()?;
        if !depth.is_empty() {
            session.feed(depth)?;
        }
        self.check(&Run { session: &mut session, tokens, logits: Logits::Last })?;
        let (state, wanted) = (&mut *session.state, Logits::Last);
        let logits = &mut session.logits;
        let run = BackendRun { tokens, vectors: None, state, wanted, logits };
        pollster::block_on(self.shared.executable.profile(vec![run]))
    }

    /// Makes the device fail as if it had been unplugged. The processor can't.
    #[cfg(feature = "testing")]
    pub fn lose_device(&self) {
        self.shared.executable.lose_device();
    }

    pub(crate) fn executable(&self) -> &dyn Executable {
        &*self.shared.executable
    }
}
