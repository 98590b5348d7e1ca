//! [`WgpuExecutable`]: a plan on a device. A step writes its tokens, records its dispatches and submits them; it waits for the
//! device only where logits are wanted.

#![deny(clippy::wildcard_enum_match_arm)]

use std::sync::{Arc, Mutex, PoisonError};

use kinglet_models::ModelSpec;
use kinglet_shaders::Variant;

use super::adapter::AdapterKind;
use super::ahead::WgpuAhead;
use super::builder::Builder;
use super::device::{Device, DeviceOptions};
use super::dispatch::{Dispatch, Over};
use super::memory::{Sizes, fitting, memory};
use super::profile::Stamps;
use super::program::{Program, Recorder};
use super::readback::{Readback, Spare};
use super::state::{SpareTensors, StateLayout, WgpuState};
use crate::backend::executable::{
    Ahead, BackendRun, Executable, Logits, ProfileFuture, SessionState, StepFuture,
};
use crate::model_options::StateType;
use crate::plan::Plan;
use crate::plan::op::{DoubleBuffer, Op};
use crate::weights::Weights;
use crate::{Activations, Error, ModelOptions};

/// Tokens of a step where the caller doesn't say. Graphics cards need more of them: tiles of 128 tokens by 128 rows must be enough for all
/// of their processors, and an expert's share of the tokens must fill a tile.
const DEFAULT_CHUNK: usize = 512;
const DISCRETE_CHUNK: usize = 2048;
/// Bytes of logits that are computed at once.
const LOGIT_BYTES: usize = 64 << 20;

/// Mesa's software adapter leaves any loop when a thread has taken 65535 turns in all of its loops together, without a word:
/// what a step asks of a thread must stay below.
const SOFTWARE_TURNS: usize = 60_000;

/// A plan with its weights on a device.
pub(crate) struct WgpuExecutable {
    program: Arc<Program>,
}

/// Keeps a device open, so that a model that is opened meanwhile needs not wait for it.
pub(crate) struct OpenDevice(Arc<Device>);

impl OpenDevice {
    /// Opens the device that `options` ask for.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub(crate) async fn new(options: &ModelOptions) -> Result<Self, Error> {
        Ok(Self(Device::shared_async(device_options(options)).await?))
    }

    /// Tests the device for models like `spec`, so that who opens one needs not wait for that either.
    ///
    /// # Errors
    /// When the device fails the test.
    pub(crate) async fn test(
        &self,
        spec: &ModelSpec,
        weights: &Weights,
        options: &ModelOptions,
    ) -> Result<(), Error> {
        // What the device can't do at all is said when the model is opened.
        let possible = options.state_type == StateType::F32 || self.0.capabilities.f16;
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

impl WgpuExecutable {
    /// Opens the device, tests it with small models like `spec` where there is one, brings the weights there and makes all kernels
    /// ready.
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
        let device = Device::shared(device_options(options))?;
        if options.state_type != StateType::F32 && !device.capabilities.f16 {
            let what = "storing states in half precision, on an adapter without f16";
            return Err(Error::Unsupported { what });
        }
        // Where nobody can wait here, it was done by [`OpenDevice::test`].
        let test = options.self_test && !cfg!(target_family = "wasm");
        if let Some(spec) = spec.filter(|_| test) {
            pollster::block_on(super::self_test::run(&device, spec, weights, options))?;
        }
        Self::build(device, plan, weights, options)
    }

    /// The plan on this device.
    pub(super) fn build(
        device: Arc<Device>,
        plan: Arc<Plan>,
        weights: &Weights,
        options: &ModelOptions,
    ) -> Result<Self, Error> {
        let sizes = Sizes::of(&plan);
        let bound = usize::try_from(device.max_binding).unwrap_or(usize::MAX);
        let most_turns = match device.info.kind {
            AdapterKind::Software => SOFTWARE_TURNS,
            AdapterKind::Discrete
            | AdapterKind::Integrated
            | AdapterKind::Virtual
            | AdapterKind::Other => usize::MAX,
        };
        let default = match device.info.kind {
            AdapterKind::Discrete => DISCRETE_CHUNK,
            AdapterKind::Integrated
            | AdapterKind::Virtual
            | AdapterKind::Software
            | AdapterKind::Other => DEFAULT_CHUNK,
        };
        let asked = options.chunk.unwrap_or(default);
        let chunk = asked
            .min(most_turns / sizes.turns)
            .min(bound / (4 * sizes.widest).max(1))
            .min(device.max_groups as usize)
            .max(1);
        let chunk = fitting(&plan, chunk, device.max_binding);
        let exact = options.activations == Activations::F32;
        let row = 4 * plan.vocab.max(1);
        let logit_rows = (LOGIT_BYTES.min(bound) / row).clamp(1, chunk);
        let memory = memory(&device, &plan, &sizes, chunk, logit_rows)?;
        let mut builder = Builder::new(&device, &plan, weights, &memory, chunk, exact);
        weights.check_unchanged()?;
        for op in &plan.ops {
            add(op, &mut builder)?;
        }
        let sampling = match builder.device.chooses() {
            true => Some(Arc::new(super::sample::add(&mut builder)?)),
            false => None,
        };
        let (dispatches, rotations) = builder.finish()?;
        let mut double_buffers = vec![DoubleBuffer::Nothing; plan.states.len()];
        for stepped in plan.ops.iter().flat_map(|op| op.description().states()) {
            double_buffers[stepped.state.0] = stepped.double_buffer;
        }
        let layout = StateLayout::new(&device, &plan, &double_buffers)?;
        Ok(Self {
            program: Arc::new(Program {
                device,
                plan,
                dispatches,
                layout,
                tensors: SpareTensors::default(),
                chunk,
                rotations,
                memory,
                sampling,
                logit_rows,
                recording: Mutex::new(0),
                spare: Spare::new(4),
                spare_tokens: Spare::new(16),
            }),
        })
    }

    /// What it runs.
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// The kernels that it launches.
    pub(super) fn variants(&self) -> impl Iterator<Item = Variant> {
        self.program.dispatches.iter().map(|dispatch| dispatch.kernel.variant)
    }

    /// Records and submits a step; gives what must be read back.
    fn submit(
        &self,
        runs: &mut [BackendRun<'_>],
        mut stamps: Option<&mut Stamps>,
    ) -> Result<Readback, Error> {
        let program = &self.program;
        program.device.check()?;
        let mut states = Vec::with_capacity(runs.len());
        let (mut tokens, mut wanted, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        let vectors = runs.iter().find_map(|run| run.vectors);
        for run in runs.iter_mut() {
            let Some(state) = run.state.as_any_mut().downcast_mut::<WgpuState>() else {
                return Err(Error::ForeignSession);
            };
            if !state.belongs_to(program) {
                return Err(Error::ForeignSession);
            }
            state.prepare(run.tokens.len())?;
            let (start, end) = (tokens.len(), tokens.len() + run.tokens.len());
            match run.wanted {
                Logits::None => {}
                Logits::Last => wanted.extend((end as u32).checked_sub(1)),
                Logits::All => wanted.extend(start as u32..end as u32),
            }
            tokens.extend_from_slice(run.tokens);
            spans.push((start, run.tokens.len()));
            states.push(state);
        }
        if tokens.len() > program.chunk {
            return Err(program.device.fault("more tokens than a step can have"));
        }

        let mut steps = vec![[0, tokens.len() as u32, 0, 0]];
        for (state, &(start, len)) in states.iter().zip(&spans) {
            steps.push([start as u32, len as u32, state.position as u32, state.parity]);
        }
        let pieces: Vec<(usize, usize)> = (0..wanted.len())
            .step_by(program.logit_rows)
            .map(|first| (first, program.logit_rows.min(wanted.len() - first)))
            .collect();
        steps.extend(pieces.iter().map(|&(first, rows)| [first as u32, rows as u32, 0, 0]));
        let (device, queue) = (&program.device.device, &program.device.queue);
        let staging: Vec<_> = pieces
            .iter()
            .map(|&(_, rows)| {
                let bytes = 4 * (rows * program.plan.vocab) as u64;
                Ok((program.spare.take(&program.device, bytes)?, bytes))
            })
            .collect::<Result<_, Error>>()?;

        let mut turn = program.recording.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vectors) = vectors {
            program.write_vectors(vectors);
        }
        queue.write_buffer(&program.memory.tokens, 0, bytemuck::cast_slice(&tokens));
        if !wanted.is_empty() {
            queue.write_buffer(&program.memory.wanted, 0, bytemuck::cast_slice(&wanted));
        }
        program.write_steps(&steps, spans.len());
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut recorder = Recorder::new(&mut encoder, stamps.as_deref_mut());
        let recorded: Vec<(&WgpuState, usize)> =
            states.iter().zip(&spans).map(|(state, &(_, len))| (&**state, len)).collect();
        program.record_step(&mut recorder, &recorded, tokens.len(), vectors.is_some());
        drop(recorder);
        for (piece, (&(_, rows), (staging, bytes))) in pieces.iter().zip(&staging).enumerate() {
            let mut recorder = Recorder::new(&mut encoder, stamps.as_deref_mut());
            let place = 1 + spans.len() + piece;
            program.record_logits(&mut recorder, place, rows, std::iter::empty());
            drop(recorder);
            let logits = &program.memory.logits;
            encoder.copy_buffer_to_buffer(logits, 0, staging, 0, Some(*bytes));
        }
        if let Some(stamps) = stamps {
            stamps.resolve(&mut encoder);
        }
        let submission = queue.submit([encoder.finish()]);
        *turn = 0;
        drop(turn);
        for (state, &(_, len)) in states.iter_mut().zip(&spans) {
            state.position += len;
            state.parity ^= 1;
        }
        Ok(Readback::new(submission, staging))
    }

    async fn run(
        &self,
        mut runs: Vec<BackendRun<'_>>,
        stamps: Option<&mut Stamps>,
    ) -> Result<(), Error> {
        let readback = self.submit(&mut runs, stamps)?;
        if readback.is_empty() {
            return self.program.device.look();
        }
        let (device, vocab) = (&self.program.device, self.program.plan.vocab);
        // Rows come in the order of the runs, cut into pieces elsewhere.
        let mut left: Vec<usize> =
            runs.iter().map(|run| run.wanted.rows(run.tokens.len()) * vocab).collect();
        for (run, &wanted) in runs.iter_mut().zip(&left) {
            run.logits.try_reserve_exact(wanted).map_err(|_| Error::OutOfMemory {
                what: "logits",
                bytes: wanted.saturating_mul(4),
            })?;
        }
        let mut current = 0;
        readback
            .read(device, &self.program.spare, |mut values: &[f32]| {
                while let (false, Some(wanted)) = (values.is_empty(), left.get_mut(current)) {
                    let (own, rest) = values.split_at(values.len().min(*wanted));
                    runs[current].logits.extend_from_slice(own);
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
        Ok(())
    }
}

/// Adds the dispatches of an op.
fn add(op: &Op, builder: &mut Builder<'_>) -> Result<(), Error> {
    if op.uses().expert_count == 0 {
        builder.grouping.forget();
    }
    match op {
        Op::Embed(op) => super::embed::add(op, builder),
        Op::Linear(op) => super::linear::add(op, builder),
        Op::GatedLinear(op) => super::gated_linear::add(op, builder),
        Op::Attention(op) => super::attention::add(op, builder),
        Op::Conv1d(op) => super::conv1d::add(op, builder),
        Op::MambaScan(op) => super::mamba_scan::add(op, builder),
        Op::Mamba2Scan(op) => super::mamba2_scan::add(op, builder),
        Op::MLstmScan(op) => super::mlstm_scan::add(op, builder),
        Op::GatedDeltaScan(op) => super::gated_delta_scan::add(op, builder),
        Op::MoeRoute(op) => super::moe_route::add(op, builder),
        Op::MoeUp(op) => super::moe_up::add(op, builder),
        Op::MoeDown(op) => super::moe_down::add(op, builder),
        Op::Head(op) => super::head::add(op, builder),
    }
}

impl Executable for WgpuExecutable {
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error> {
        self.program.device.look()?;
        Ok(Box::new(WgpuState::new(self.program.clone())?))
    }

    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a> {
        Box::pin(self.run(runs, None))
    }

    fn profile<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> ProfileFuture<'a> {
        Box::pin(async move {
            let device = &self.program.device;
            let mut stamps = Stamps::new(device)?;
            self.run(runs, Some(&mut stamps)).await?;
            stamps.read(device).await
        })
    }

    fn memory_bandwidth(&self) -> Result<Option<f64>, Error> {
        super::bandwidth::measure(&self.program.device).map(Some)
    }

    #[cfg(feature = "testing")]
    fn lose_device(&self) {
        self.program.device.device.destroy();
    }

    fn ahead(&self) -> Option<Box<dyn Ahead>> {
        let sampling = self.program.sampling.clone()?;
        Some(Box::new(WgpuAhead::new(self.program.clone(), sampling)))
    }

    fn describe(&self) -> String {
        let device = &self.program.device;
        let info = &device.info;
        let how = if device.capabilities.subgroups { "subgroups" } else { "no subgroups" };
        let avoided = match device.avoided().len() {
            0 => String::new(),
            count => format!(", {count} kinds of kernels replaced after its self-test"),
        };
        format!("wgpu, {} ({}, {}, {how}{avoided})", info.name, info.kind, info.api)
    }

    fn threads(&self) -> usize {
        1
    }

    fn max_step_tokens(&self) -> usize {
        self.program.chunk
    }

    fn dispatches(&self, tokens: usize) -> usize {
        let recorded = |dispatch: &&Dispatch| match dispatch.over {
            Over::Step | Over::Runs => dispatch.holds(tokens),
            // The last token's.
            Over::Logits => dispatch.holds(1),
        };
        self.program.dispatches.iter().filter(recorded).count()
    }
}
