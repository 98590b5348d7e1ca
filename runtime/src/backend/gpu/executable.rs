//! [`GpuExecutable`]: a plan on a GPU. A step writes its tokens, submits its launches, and waits for the device only where logits are wanted.

#![deny(clippy::wildcard_enum_match_arm)]

use std::sync::Arc;

use kinglet_models::ModelSpec;
use kinglet_shaders::Variant;

use super::adapter::AdapterKind;
use super::ahead::GpuAhead;
use super::api::{Commands, Gpu, Launches, StateBindings};
use super::builder::RecordOptions;
use super::pools::{Pool, Pools, Slot};
use super::program::Program;
use super::readback::Readback;
use super::recording::{FEW, RunSize, Step};
use super::state::GpuState;
use super::target::{DeviceOptions, lock};
use crate::backend::executable::{
    Ahead, BackendRun, Executable, KernelTime, Logits, ProfileFuture, SessionState, StepFuture,
};
use crate::model_options::StateType;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Activations, Error, ModelOptions};

/// Tokens of a step where the caller doesn't say.
const DEFAULT_CHUNK: usize = 512;
/// The same on graphics cards: tiles of 128 tokens by 128 rows must be enough for all multiprocessors, and an expert's share of the tokens must
/// fill a tile.
const DISCRETE_CHUNK: usize = 2048;
/// Bytes of logits that are computed at once.
const LOGIT_BYTES: usize = 64 << 20;

/// Mesa's software adapter silently leaves any loop when a thread has taken 65535 iterations in all of its loops together: what a step asks of a
/// thread must stay below.
const SOFTWARE_TURNS: usize = 60_000;

/// A plan with its weights on a device.
pub(crate) struct GpuExecutable<A: Gpu> {
    program: Arc<Program<A>>,
}

/// Keeps a device open, so that a model that is opened meanwhile finds it.
pub(crate) struct OpenDevice<A: Gpu>(Arc<A>);

impl<A: Gpu> OpenDevice<A> {
    /// Opens the device that `options` ask for.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub(crate) async fn new(options: &ModelOptions) -> Result<Self, Error> {
        Ok(Self(A::open_async(device_options(options)).await?))
    }

    /// Tests the device for models like `spec`, so that a model that is opened later need not wait for that.
    ///
    /// # Errors
    /// When the device fails the test.
    pub(crate) async fn test(
        &self,
        spec: &ModelSpec,
        weights: &Weights,
        options: &ModelOptions,
    ) -> Result<(), Error> {
        // Opening the model reports what the device doesn't support.
        let possible = options.state_type == StateType::F32 || self.0.target().capabilities.f16;
        if !(options.self_test && possible) {
            return Ok(());
        }
        super::self_test::run(&self.0, spec, weights, options).await
    }
}

fn device_options(options: &ModelOptions) -> DeviceOptions {
    DeviceOptions {
        adapter: options.adapter,
        limits: options.device_limits,
        cache_dir: options.cache_dir.clone(),
    }
}

impl<A: Gpu> GpuExecutable<A> {
    /// Opens the device, tests it with small models like `spec` where one is given, and makes the plan ready.
    ///
    /// # Errors
    /// When an option is out of range, the device refuses or fails its test, or weights can't be read.
    pub(crate) fn new(
        plan: Arc<Plan>,
        weights: &Weights,
        options: &ModelOptions,
        spec: Option<&ModelSpec>,
    ) -> Result<Self, Error> {
        if let Some(asked) = options.chunk.filter(|asked| !(1..=1 << 16).contains(asked)) {
            let (name, value) = ("chunk", asked.to_string());
            return Err(Error::Option { name, value, expected: "from 1 to 65536" });
        }
        let device = A::open(device_options(options))?;
        if options.state_type != StateType::F32 && !device.target().capabilities.f16 {
            let what = "states in f16: the adapter has no f16";
            return Err(Error::Unsupported { what });
        }
        // Where this thread must not block, `OpenDevice::test` has run it.
        let test = options.self_test && !cfg!(target_family = "wasm");
        if let Some(spec) = spec.filter(|_| test) {
            pollster::block_on(super::self_test::run(&device, spec, weights, options))?;
        }
        Self::build(device, plan, weights, options)
    }

    /// The plan on this device.
    pub(super) fn build(
        device: Arc<A>,
        plan: Arc<Plan>,
        weights: &Weights,
        options: &ModelOptions,
    ) -> Result<Self, Error> {
        let kind = device.target().info.kind;
        let most_turns = match kind {
            AdapterKind::Software => SOFTWARE_TURNS,
            AdapterKind::Discrete
            | AdapterKind::Integrated
            | AdapterKind::Virtual
            | AdapterKind::Other => usize::MAX,
        };
        let default = match kind {
            AdapterKind::Discrete => DISCRETE_CHUNK,
            AdapterKind::Integrated
            | AdapterKind::Virtual
            | AdapterKind::Software
            | AdapterKind::Other => DEFAULT_CHUNK,
        };
        let options = RecordOptions {
            chunk: options.chunk.unwrap_or(default),
            most_turns,
            logit_bytes: LOGIT_BYTES,
            exact: options.activations == Activations::F32,
        };
        Ok(Self { program: Arc::new(Program::new(device, plan, weights, &options)?) })
    }

    /// What it runs.
    pub(super) fn program(&self) -> &Program<A> {
        &self.program
    }

    /// The kernels of its steps.
    pub(super) fn variants(&self) -> impl Iterator<Item = Variant> {
        self.program.recording.variants()
    }

    /// The state of a run.
    ///
    /// # Errors
    /// When it is that of another model.
    fn state<'a>(&self, run: &'a mut BackendRun<'_>) -> Result<&'a mut GpuState<A>, Error> {
        let state = run.state.as_any_mut().downcast_mut::<GpuState<A>>();
        state.filter(|state| state.belongs_to(&self.program)).ok_or(Error::ForeignSession)
    }

    /// Brings the tensors of runs with few tokens together and sorts `runs` by pool, so that a launch can take those that follow one another.
    /// Returns each run's pool, by number, and its slot.
    ///
    /// # Errors
    /// When a state has no tensors.
    fn arrange(
        &self,
        pools: &mut Pools<A>,
        runs: &mut Vec<BackendRun<'_>>,
    ) -> Result<Vec<(usize, Slot<A>)>, Error> {
        let mut tensors = Vec::with_capacity(runs.len());
        for run in runs.iter_mut() {
            tensors.push((run.tokens.len() > FEW, self.state(run)?.tensors()));
        }
        let few: Vec<u64> = tensors.iter().filter(|(many, _)| !many).map(|(_, own)| *own).collect();
        pools.gather(&self.program, &few);
        let mut known: Vec<Arc<Pool<A>>> = Vec::new();
        let mut sorted = Vec::with_capacity(runs.len());
        for ((many, tensors), run) in tensors.into_iter().zip(runs.drain(..)) {
            let slot = pools.slot(&self.program, tensors)?.clone();
            let pool = known.iter().position(|own| Arc::ptr_eq(own, &slot.pool));
            let pool = pool.unwrap_or_else(|| {
                known.push(slot.pool.clone());
                known.len() - 1
            });
            sorted.push((many, pool, slot, run));
        }
        sorted.sort_by_key(|(many, pool, ..)| (*many, *pool));
        let (slots, own) =
            sorted.into_iter().map(|(_, pool, slot, run)| ((pool, slot), run)).unzip();
        *runs = own;
        Ok(slots)
    }

    /// Submits a step and reorders its `runs`. Returns what is to be read back, its logits and then, if a run wants it, the residual stream of
    /// all its tokens; and the names of its kernels where there is a `timer`.
    fn submit(
        &self,
        runs: &mut Vec<BackendRun<'_>>,
        mut timer: Option<&mut A::Timer>,
    ) -> Result<(Readback<A>, Vec<String>), Error> {
        let (program, recording) = (&self.program, &self.program.recording);
        let device = &program.device;
        device.check()?;
        for run in runs.iter_mut() {
            let len = run.tokens.len();
            self.state(run)?.prepare(len)?;
        }
        let mut pools = lock(&program.pools);
        let slots = self.arrange(&mut pools, runs)?;
        let mut states = Vec::with_capacity(runs.len());
        let (mut tokens, mut wanted, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        let mut steps = vec![Step::default()];
        let vectors = runs.iter().find_map(|run| run.vectors);
        let stream = program.plan.stream().filter(|_| runs.iter().any(|run| run.stream.is_some()));
        for (run, (pool, slot)) in runs.iter_mut().zip(&slots) {
            let (start, end) = (tokens.len() as u32, (tokens.len() + run.tokens.len()) as u32);
            match run.wanted {
                Logits::None => {}
                Logits::Last => wanted.extend(end.checked_sub(1)),
                Logits::All => wanted.extend(start..end),
            }
            tokens.extend_from_slice(run.tokens);
            let len = run.tokens.len();
            sizes.push(RunSize { tokens: len, pool: *pool });
            let state = self.state(run)?;
            steps.push(state.step(slot.number, start as usize, len));
            states.push(state);
        }
        if tokens.len() > recording.chunk {
            return Err(device.target().fault("more tokens than a step can have"));
        }
        steps[0].tokens = tokens.len() as u32;
        let pieces: Vec<(usize, usize)> = (0..wanted.len())
            .step_by(recording.logit_rows)
            .map(|first| (first, recording.logit_rows.min(wanted.len() - first)))
            .collect();
        steps.extend(pieces.iter().map(|&(first, rows)| Step {
            start: first as u32,
            tokens: rows as u32,
            ..Step::default()
        }));
        let mut staging: Vec<_> = pieces
            .iter()
            .map(|&(_, rows)| {
                let bytes = 4 * (rows * program.plan.vocab) as u64;
                Ok((program.staging.take(device, bytes)?, bytes))
            })
            .collect::<Result<_, Error>>()?;
        let stream = stream.map(|id| &program.plan.buffers[id.0]);
        let rows = stream.map(|buffer| {
            let bytes = 4 * (tokens.len() * buffer.width) as u64;
            Ok::<_, Error>((buffer, program.staging.take(device, bytes)?, bytes))
        });
        let rows = rows.transpose()?;

        let mut calls = recording.step(&sizes, vectors.is_some());
        let sessions = states.iter().zip(&slots).map(|(state, (_, slot))| {
            let tensors = slot.pool.bindings(program)?;
            Ok(StateBindings { caches: state.bindings(), tensors })
        });
        let sessions: Vec<_> = sessions.collect::<Result<_, Error>>()?;
        let mut names = Vec::new();
        let mut turn = lock(&program.turn);
        if let Some(vectors) = vectors {
            program.write_vectors(vectors);
        }
        program.write(recording.memory.tokens, &tokens);
        if !wanted.is_empty() {
            program.write(recording.memory.wanted, &wanted);
        }
        program.write_steps(&steps, sizes.len());
        let mut commands = device.commands();
        let mut next = pieces.iter().zip(&staging).enumerate();
        loop {
            // The first piece of logits goes with the step.
            let piece = next.next();
            if let Some((piece, (&(_, rows), _))) = piece {
                recording.logits(1 + sizes.len() + piece, rows, &mut calls);
            }
            let launches = Launches { calls: &calls, ready: &program.ready, sessions: &sessions };
            commands.launch(&launches, timer.as_deref_mut());
            if timer.is_some() {
                names.extend(calls.iter().map(|call| recording.name(call)));
            }
            calls.clear();
            let Some((_, (_, (staging, bytes)))) = piece else { break };
            commands.fetch(program.buffer(recording.memory.logits), 0, staging, 0, *bytes);
        }
        if let Some((buffer, rows, bytes)) = rows {
            // The last op reads the stream, so its slot still holds it.
            let slot = program.buffer(recording.memory.slots[buffer.slot]);
            commands.fetch(slot, 0, &rows, 0, bytes);
            staging.push((rows, bytes));
        }
        if let Some(timer) = timer {
            commands.finish_timer(timer);
        }
        let submission = commands.submit();
        *turn = 0;
        drop((turn, pools));
        for (state, size) in states.iter_mut().zip(sizes) {
            state.position += size.tokens;
            state.parity ^= 1;
        }
        Ok((Readback::new(submission, staging), names))
    }

    /// Runs a step; the names of its kernels where there is a `timer`.
    async fn run(
        &self,
        mut runs: Vec<BackendRun<'_>>,
        timer: Option<&mut A::Timer>,
    ) -> Result<Vec<String>, Error> {
        let (readback, names) = self.submit(&mut runs, timer)?;
        if readback.is_empty() {
            return self.program.device.poll().map(|()| names);
        }
        let (device, vocab) = (&*self.program.device, self.program.plan.vocab);
        let hidden =
            self.program.plan.stream().map_or(0, |id| self.program.plan.buffers[id.0].width);
        let streams = runs.iter().any(|run| run.stream.is_some());
        // Where the values go, and how many: the logits of the runs in their order, then the stream of all tokens.
        let mut logits = Vec::with_capacity(runs.len());
        let mut stream = Vec::new();
        for run in &mut runs {
            let tokens = run.tokens.len();
            logits.push((Some(&mut *run.logits), run.wanted.rows(tokens) * vocab));
            if streams {
                stream.push((run.stream.as_deref_mut(), tokens * hidden));
            }
        }
        let mut places: Vec<_> = logits.into_iter().chain(stream).collect();
        for (place, wanted) in &mut places {
            let Some(place) = place else { continue };
            place.try_reserve_exact(*wanted).map_err(|_| Error::OutOfMemory {
                what: "logits",
                bytes: wanted.saturating_mul(4),
            })?;
        }
        let mut current = 0;
        readback
            .read(device, &self.program.staging, |mut values: &[f32]| {
                while let (false, Some((place, wanted))) =
                    (values.is_empty(), places.get_mut(current))
                {
                    let (own, rest) = values.split_at(values.len().min(*wanted));
                    if let Some(place) = place {
                        place.extend_from_slice(own);
                    }
                    *wanted -= own.len();
                    values = rest;
                    current += usize::from(*wanted == 0);
                }
            })
            .await?;
        let broken = |run: &BackendRun<'_>| run.logits.iter().any(|x| !x.is_finite());
        if cfg!(debug_assertions) && runs.iter().any(broken) {
            let index = self.program.plan.ops.len().saturating_sub(1);
            return Err(Error::NonFinite { index, op: "head" });
        }
        Ok(names)
    }
}

impl<A: Gpu> Executable for GpuExecutable<A> {
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error> {
        self.program.device.poll()?;
        Ok(Box::new(GpuState::new(self.program.clone())?))
    }

    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a> {
        Box::pin(async move { self.run(runs, None).await.map(drop) })
    }

    fn profile<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> ProfileFuture<'a> {
        Box::pin(async move {
            let device = &self.program.device;
            let mut timer = device.timer()?;
            let names = self.run(runs, Some(&mut timer)).await?;
            let times = device.read_timer(timer).await?;
            if times.len() < names.len() {
                let left = names.len() - times.len();
                log::warn!("{left} launches of the step were not measured");
            }
            Ok(KernelTime::sums(&names, &times))
        })
    }

    fn memory_bandwidth(&self) -> Result<Option<f64>, Error> {
        super::bandwidth::measure(&self.program.device).map(Some)
    }

    #[cfg(feature = "testing")]
    fn lose_device(&self) {
        self.program.device.lose();
    }

    fn ahead(&self) -> Option<Box<dyn Ahead>> {
        let sampling = self.program.recording.sampling?;
        Some(Box::new(GpuAhead::new(self.program.clone(), sampling)))
    }

    fn describe(&self) -> String {
        let target = self.program.device.target();
        let info = &target.info;
        let how = if target.capabilities.subgroups { "subgroups" } else { "no subgroups" };
        let avoided = match target.avoided().len() {
            0 => String::new(),
            count => format!(", {count} kinds of kernels replaced after its self-test"),
        };
        format!("{}, {} ({}, {}, {how}{avoided})", A::backend(), info.name, info.kind, info.api)
    }

    fn threads(&self) -> usize {
        1
    }

    fn max_step_tokens(&self) -> usize {
        self.program.recording.chunk
    }

    fn dispatches(&self, runs: &[usize]) -> usize {
        let Program { recording, layout, .. } = &*self.program;
        let pool = |(run, &tokens)| RunSize { tokens, pool: run / layout.most_slots };
        let runs: Vec<_> = runs.iter().enumerate().map(pool).collect();
        let mut calls = recording.step(&runs, false);
        // Those of each run's last token.
        for first in (0..runs.len()).step_by(recording.logit_rows) {
            let rows = recording.logit_rows.min(runs.len() - first);
            recording.logits(1 + runs.len(), rows, &mut calls);
        }
        calls.len()
    }

    #[cfg(feature = "testing")]
    fn tensor_bytes(&self) -> usize {
        lock(&self.program.pools).bytes(&self.program)
    }
}
