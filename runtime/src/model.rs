//! [`Model`]: a checkpoint made ready to run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kinglet_models::ModelSpec;

use crate::Error;
use crate::backend::{self, Backend, BackendRun, Executable, KernelTime, Logits, SessionState};
use crate::cancel::Cancel;
use crate::checkpoint::Checkpoint;
use crate::cpu::simd::Isa;
use crate::plan::{Plan, StateFormat};
use crate::saved_state::Identity;
use crate::session::{Retained, Session, SharedState};
use crate::weights::{CheckOptions, Weights};

/// What matrices are multiplied with. On the CPU dense ones always take activations as they are, on a GPU those of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activations {
    /// What is fastest within the stated bound: on the CPU, activations in eight bits with a scale for every 32 of them, so that each
    /// is off by at most 1/254 of the largest among its 32; on a GPU the same where there are few tokens, and f16 where there are many.
    #[default]
    Auto,
    /// Activations as they are.
    F32,
}

impl Activations {
    /// Every choice by the name that command lines use.
    pub const NAMES: &[(&str, Self)] = &[("auto", Self::Auto), ("f32", Self::F32)];
}

impl std::str::FromStr for Activations {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, activations)| *activations).ok_or_else(|| Error::Option {
            name: "activations",
            value: name.into(),
            expected: "one of auto, f32",
        })
    }
}

/// In what precision a session's recurrent tensors are stored between steps. Keys and values are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateType {
    /// Single precision, as computed.
    #[default]
    F32,
    /// Half precision: half the memory, and an error that each step adds to. Numbers above 65504 are stored as that.
    F16,
}

impl StateType {
    /// Every type by its bits, as command lines have it.
    pub const BITS: &[(&str, Self)] = &[("32", Self::F32), ("16", Self::F16)];
}

impl std::str::FromStr for StateType {
    type Err = Error;
    fn from_str(bits: &str) -> Result<Self, Error> {
        of_bits(Self::BITS, bits, "bits of recurrent states", "32 or 16")
    }
}

/// What has so many bits among `known`.
fn of_bits<T: Copy>(
    known: &[(&str, T)],
    bits: &str,
    name: &'static str,
    expected: &'static str,
) -> Result<T, Error> {
    let found = known.iter().find(|(known, _)| *known == bits);
    let none = || Error::Option { name, value: bits.into(), expected };
    found.map(|(_, of_type)| *of_type).ok_or_else(none)
}

/// How keys and values are stored. Recurrent tensors are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheType {
    /// Single precision, as computed.
    #[default]
    F32,
    /// Codes of 8 bits with a scale and a bias for every 32 elements of a head: 28 % of the memory.
    Affine8,
    /// Codes of 4 bits with a scale and a bias for every 32 elements of a head: 16 % of the memory, and an error that can be seen in the
    /// logits.
    Affine4,
}

impl CacheType {
    /// Every type by the bits of its codes, as command lines have it.
    pub const BITS: &[(&str, Self)] =
        &[("32", Self::F32), ("8", Self::Affine8), ("4", Self::Affine4)];
}

impl std::str::FromStr for CacheType {
    type Err = Error;
    fn from_str(bits: &str) -> Result<Self, Error> {
        of_bits(Self::BITS, bits, "bits of keys and values", "32, 8 or 4")
    }
}

/// How a model is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ModelOptions {
    /// Which backend computes.
    pub backend: Backend,
    /// Threads of the CPU backend; the physical cores if not given.
    pub threads: Option<usize>,
    /// Instruction set of the CPU backend; the best one if not given.
    pub isa: Option<Isa>,
    /// Which adapter the wgpu backend takes, by its number among [`adapters`](crate::adapters); the best one if not given.
    /// Named with the backend `auto`, it is taken whatever it is.
    pub adapter: Option<usize>,
    /// Whether the wgpu backend's kernels do without subgroups where the adapter has them.
    pub avoid_subgroups: bool,
    /// A bound on the buffers that the wgpu backend's kernels see, in bytes, below the adapter's own.
    pub max_binding: Option<u64>,
    /// Most tokens that are computed together, a bound on working memory; if not given 512, on graphics cards 2048.
    pub chunk: Option<usize>,
    /// What quantized matrices are multiplied with.
    pub activations: Activations,
    /// Whether tensors that the model has no use for are a warning instead of an error.
    pub allow_surplus: bool,
    /// Most tokens that a session may hold; unlimited if not given.
    pub context_limit: Option<usize>,
    /// The last positions that attention sees, in layers that would see more: a session's memory is bounded then, however long it gets, and
    /// what lies farther back is left to recurrent layers or lost. Positions stay what they are.
    pub attention_window: Option<usize>,
    /// The first positions, which attention sees whatever [`Self::attention_window`] is: many models lean on them.
    pub attention_sinks: usize,
    /// In what precision recurrent tensors are stored.
    pub state_type: StateType,
    /// How keys and values are stored.
    pub cache_type: CacheType,
    /// A folder of the program's own where a backend keeps what makes the next start faster: kernels that a driver has compiled, and
    /// what was found out about it. Nothing is kept if not given.
    pub cache_dir: Option<PathBuf>,
    /// Whether the wgpu backend tests the kernels that a model needs on small inputs before it uses them, and does without what a driver gets
    /// wrong. It takes some milliseconds, once for each kind of layer, or once for each driver where there is a [`Self::cache_dir`].
    pub self_test: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            threads: None,
            isa: None,
            adapter: None,
            avoid_subgroups: false,
            max_binding: None,
            chunk: None,
            activations: Activations::default(),
            allow_surplus: false,
            context_limit: None,
            attention_window: None,
            attention_sinks: 0,
            state_type: StateType::default(),
            cache_type: CacheType::default(),
            cache_dir: None,
            self_test: true,
        }
    }
}

impl ModelOptions {
    /// Backend `auto`, threads on the physical cores.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`Self::backend`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Sets [`Self::threads`].
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets [`Self::isa`].
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// Sets [`Self::adapter`].
    pub fn adapter(mut self, index: usize) -> Self {
        self.adapter = Some(index);
        self
    }

    /// Sets [`Self::avoid_subgroups`].
    pub fn avoid_subgroups(mut self, avoid: bool) -> Self {
        self.avoid_subgroups = avoid;
        self
    }

    /// Sets [`Self::max_binding`].
    pub fn max_binding(mut self, bytes: u64) -> Self {
        self.max_binding = Some(bytes);
        self
    }

    /// Sets [`Self::chunk`].
    pub fn chunk(mut self, chunk: usize) -> Self {
        self.chunk = Some(chunk);
        self
    }

    /// Sets [`Self::activations`].
    pub fn activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    /// Sets [`Self::allow_surplus`].
    pub fn allow_surplus(mut self, allow: bool) -> Self {
        self.allow_surplus = allow;
        self
    }

    /// Sets [`Self::attention_window`] and [`Self::attention_sinks`].
    pub fn attention_window(mut self, window: usize, sinks: usize) -> Self {
        self.attention_window = Some(window);
        self.attention_sinks = sinks;
        self
    }

    /// `plan` with states that are stored so.
    pub(crate) fn stored(&self, plan: Plan) -> Plan {
        let tensors = match self.state_type {
            StateType::F32 => StateFormat::F32,
            StateType::F16 => StateFormat::F16,
        };
        let caches = match self.cache_type {
            CacheType::F32 => StateFormat::F32,
            CacheType::Affine8 => StateFormat::Affine8,
            CacheType::Affine4 => StateFormat::Affine4,
        };
        plan.with_formats(tensors, caches)
    }

    /// The plan of a model that is opened so.
    pub(crate) fn plan(&self, spec: &ModelSpec) -> Result<Plan, Error> {
        let plan = self.stored(Plan::new(spec));
        match (self.attention_window, self.attention_sinks) {
            (None, 0) => Ok(plan),
            (None, sinks) => {
                let (name, value) = ("attention sinks", sinks.to_string());
                Err(Error::Option { name, value, expected: "0 where there is no attention window" })
            }
            (Some(window), sinks) => {
                // A cache rounds them up to pages.
                let range = 1..=1 << 30;
                if !range.contains(&window) || sinks > 1 << 30 {
                    let (name, value) =
                        ("attention window", format!("{window} with {sinks} sinks"));
                    return Err(Error::Option {
                        name,
                        value,
                        expected: "from 1 to 2^30 positions",
                    });
                }
                Ok(plan.with_window(window, sinks))
            }
        }
    }

    /// Sets [`Self::state_type`].
    pub fn state_type(mut self, state_type: StateType) -> Self {
        self.state_type = state_type;
        self
    }

    /// Sets [`Self::cache_type`].
    pub fn cache_type(mut self, cache_type: CacheType) -> Self {
        self.cache_type = cache_type;
        self
    }

    /// Sets [`Self::cache_dir`].
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(folder.into());
        self
    }

    /// Sets [`Self::self_test`].
    pub fn self_test(mut self, test: bool) -> Self {
        self.self_test = test;
        self
    }

    /// Sets [`Self::context_limit`].
    pub fn context_limit(mut self, limit: usize) -> Self {
        self.context_limit = Some(limit);
        self
    }
}

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
        let check = CheckOptions { allow_surplus: options.allow_surplus };
        let Checkpoint { folder, spec, mut weights, .. } = Checkpoint::open(folder, check)?;
        if options.backend != Backend::Wgpu {
            weights.make_resident()?;
        }
        let plan = Arc::new(options.plan(&spec)?);
        let executable = backend::compile_model(plan.clone(), &weights, options, Some(&spec))?;
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

    /// [`Model::open`] where nobody can wait for a device, as in a browser. Only that is waited for: files are read and weights brought to the
    /// device at once.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub async fn open_async(
        folder: impl AsRef<Path>,
        options: &ModelOptions,
    ) -> Result<Self, Error> {
        #[cfg(feature = "wgpu")]
        let _device = match options.backend {
            Backend::Wgpu => Some(crate::wgpu::OpenDevice::new(options).await?),
            _ => None,
        };
        Self::open(folder, options)
    }

    /// A session without tokens.
    ///
    /// # Errors
    /// When there is no memory for its state.
    pub fn session(&self) -> Result<Session, Error> {
        Ok(Session {
            model: self.clone(),
            state: self.shared.executable.new_state()?,
            tokens: Vec::new(),
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
        let result = self.steps(runs, within).await;
        for run in runs.iter_mut() {
            let session = &mut *run.session;
            match &result {
                Ok(()) => {
                    session.tokens.extend_from_slice(run.tokens);
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
    async fn steps(&self, runs: &mut [Run<'_>], cancels: &[Cancel]) -> Result<(), Error> {
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
                *done += take;
                room -= take;
                let wanted = match run.logits {
                    Logits::Last if *done < run.tokens.len() => Logits::None,
                    wanted => wanted,
                };
                let Session { state, logits, .. } = session;
                batch.push(BackendRun { tokens, state: &mut **state, wanted, logits });
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

    pub(crate) fn check(&self, run: &Run<'_>) -> Result<(), Error> {
        let (session, vocab) = (&*run.session, self.vocab());
        self.check_session(session)?;
        if run.tokens.is_empty() {
            return Err(Error::EmptyRun);
        }
        let (held, more) = (session.tokens.len(), run.tokens.len());
        if let Some(limit) = session.context_limit.filter(|&limit| held + more > limit) {
            return Err(Error::ContextFull { held, more, limit });
        }
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
        let run = BackendRun { tokens, state, wanted, logits: &mut session.logits };
        pollster::block_on(self.shared.executable.profile(vec![run]))
    }

    /// For tests: see [`Executable::lose_device`].
    #[doc(hidden)]
    pub fn lose_device(&self) {
        self.shared.executable.lose_device();
    }

    pub(crate) fn executable(&self) -> &dyn Executable {
        &*self.shared.executable
    }
}
