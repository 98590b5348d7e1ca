//! [`WgpuExecutable`]: a plan on a device. A step writes its tokens, records its dispatches and submits them; it waits for the
//! device only where logits are wanted.

use std::sync::{Arc, Mutex, PoisonError};

use super::adapter::{AdapterKind, without};
use super::ahead::WgpuAhead;
use super::device::{Device, DeviceOptions};
use super::program::{
    Builder, Dispatch, FEW, Memory, Over, PREPARED, Rotation, STEP_BYTES, Scratch,
};
use super::readback::{Readback, Spare};
use super::sample::Sampling;
use super::scratch;
use super::state::{SpareTensors, StateLayout, WgpuState};
use crate::backend::{Ahead, BackendRun, Executable, Logits, SessionState, StepFuture};
use crate::model::StateType;
use crate::op::Op;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Activations, Error, ModelOptions};

/// Tokens of a step where the caller doesn't say. Graphics cards need more of them: tiles of 128 tokens by 128 rows must be enough for all
/// of their processors, and an expert's share of the tokens must fill a tile.
const DEFAULT_CHUNK: usize = 512;
const DISCRETE_CHUNK: usize = 2048;
/// Bytes of logits that are computed at once.
const LOGIT_BYTES: usize = 64 << 20;
/// Distance of the kernels' `Step`s: what dynamic offsets are aligned to on every device.
pub(super) const STEP_STRIDE: usize = 256;

/// Mesa's software adapter leaves any loop when a thread has taken 65535 turns in all of its loops together, without a word:
/// what a step asks of a thread must stay below.
const SOFTWARE_TURNS: usize = 60_000;

/// A plan with its weights on a device.
pub(crate) struct WgpuExecutable {
    program: Arc<Program>,
}

/// What an executable and its states share.
pub(super) struct Program {
    pub device: Arc<Device>,
    pub plan: Arc<Plan>,
    pub dispatches: Vec<Dispatch>,
    /// Where the states of a session lie.
    pub layout: StateLayout,
    pub tensors: SpareTensors,
    /// Most tokens of a step.
    pub chunk: usize,
    pub rotations: Vec<Rotation>,
    pub memory: Memory,
    pub sampling: Sampling,
    /// Most rows of logits that are computed at once.
    logit_rows: usize,
    /// Writes to shared buffers and the submission that uses them belong together. Whose tokens the last one has left: the number
    /// of a sequence that decodes ahead, or 0.
    pub recording: Mutex<u64>,
    pub spare: Spare,
    /// For tokens that the device chooses.
    pub spare_tokens: Spare,
}

/// Keeps a device open, so that a model that is opened meanwhile needs not wait for it.
pub(crate) struct OpenDevice(#[expect(dead_code)] Arc<Device>);

impl OpenDevice {
    /// Opens the device that `options` ask for.
    ///
    /// # Errors
    /// When there is none, or it refuses.
    pub(crate) async fn new(options: &ModelOptions) -> Result<Self, Error> {
        Ok(Self(Device::shared_async(device_options(options)).await?))
    }
}

fn device_options(options: &ModelOptions) -> DeviceOptions {
    DeviceOptions {
        adapter: options.adapter,
        avoid_subgroups: options.avoid_subgroups || without("subgroups"),
        avoid_int8: without("dot_int8"),
        checked: without("unchecked"),
        avoid_f16: without("f16"),
        avoid_cooperative: without("cooperative"),
        max_binding: options.max_binding,
    }
}

impl WgpuExecutable {
    /// Opens the device, brings the weights there and makes all kernels ready.
    pub(crate) fn new(
        plan: Arc<Plan>,
        weights: &Weights,
        options: &ModelOptions,
    ) -> Result<Self, Error> {
        if let Some(asked) = options.chunk.filter(|asked| !(1..=1 << 16).contains(asked)) {
            let (name, value) = ("chunk", asked.to_string());
            return Err(Error::Option { name, value, expected: "from 1 to 65536" });
        }
        if options.state_type != StateType::F32 {
            return Err(Error::Unsupported { what: "storing states in half precision" });
        }
        let device = Device::shared(device_options(options))?;
        let sizes = Sizes::of(&plan);
        let bound = usize::try_from(device.max_binding).unwrap_or(usize::MAX);
        let most_turns = match device.info.kind {
            AdapterKind::Software => SOFTWARE_TURNS,
            _ => usize::MAX,
        };
        let default = match device.info.kind {
            AdapterKind::Discrete => DISCRETE_CHUNK,
            _ => DEFAULT_CHUNK,
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
        let sampling = super::sample::add(&mut builder)?;
        let (dispatches, rotations) = builder.finish()?;
        let mut doubled = vec![false; plan.states.len()];
        for op in &plan.ops {
            match op {
                Op::Mamba2Scan(op) => doubled[op.conv_state.0] = true,
                Op::Conv1d(op) => doubled[op.state.0] = true,
                _ => {}
            }
        }
        let layout = StateLayout::new(&device, &plan, &doubled)?;
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

    /// Records and submits a step; gives what must be read back.
    fn submit(&self, runs: &mut [BackendRun<'_>]) -> Result<Readback, Error> {
        let program = &self.program;
        program.device.check()?;
        let mut states = Vec::with_capacity(runs.len());
        let (mut tokens, mut wanted, mut spans) = (Vec::new(), Vec::new(), Vec::new());
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

        // What kernels know of the step: first all of it, then each run, then the logits by pieces.
        let mut steps = vec![[0, tokens.len() as u32, 0, 0]];
        for (state, &(start, len)) in states.iter().zip(&spans) {
            steps.push([start as u32, len as u32, state.position as u32, state.parity]);
        }
        let pieces: Vec<(usize, usize)> = (0..wanted.len())
            .step_by(program.logit_rows)
            .map(|first| (first, program.logit_rows.min(wanted.len() - first)))
            .collect();
        steps.extend(pieces.iter().map(|&(first, rows)| [first as u32, rows as u32, 0, 0]));
        let mut step_bytes = vec![0u8; steps.len() * STEP_STRIDE];
        for (slot, step) in step_bytes.chunks_mut(STEP_STRIDE).zip(&steps) {
            slot[..STEP_BYTES as usize].copy_from_slice(bytemuck::cast_slice(step));
        }
        let (device, queue) = (&program.device.device, &program.device.queue);
        let rows = wanted.len();
        let staging: Vec<_> = pieces
            .iter()
            .map(|&(_, rows)| {
                let bytes = 4 * (rows * program.plan.vocab) as u64;
                Ok((program.spare.take(&program.device, bytes)?, bytes))
            })
            .collect::<Result<_, Error>>()?;

        let mut turn = program.recording.lock().unwrap_or_else(PoisonError::into_inner);
        queue.write_buffer(&program.memory.tokens, 0, bytemuck::cast_slice(&tokens));
        if rows > 0 {
            queue.write_buffer(&program.memory.wanted, 0, bytemuck::cast_slice(&wanted));
        }
        queue.write_buffer(&program.memory.step, 0, &step_bytes);
        for rotation in &program.rotations {
            let turns = rotation.turns(&steps[1..=spans.len()]);
            queue.write_buffer(&rotation.buffer, 0, bytemuck::cast_slice(&turns));
        }
        let mut encoder = device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        // Dispatches on states that follow one another hand their run's data on in memory that the next run uses, too.
        let alike = |a: &Dispatch, b: &Dispatch| (a.over == Over::Runs) == (b.over == Over::Runs);
        let mut first = 0;
        for dispatches in program.dispatches.chunk_by(alike) {
            if dispatches.iter().any(|dispatch| dispatch.over == Over::Runs) {
                for (run, (state, &(_, len))) in states.iter().zip(&spans).enumerate() {
                    for (index, dispatch) in (first..).zip(dispatches) {
                        if dispatch.holds(len) {
                            record(&mut pass, dispatch, state.bind_group(index), 1 + run, len);
                        }
                    }
                }
            } else {
                for dispatch in dispatches {
                    if dispatch.over == Over::Step && dispatch.holds(tokens.len()) {
                        record(&mut pass, dispatch, dispatch.bind_group.as_ref(), 0, tokens.len());
                    }
                }
            }
            first += dispatches.len();
        }
        drop(pass);
        for (piece, (&(_, rows), (staging, bytes))) in pieces.iter().zip(&staging).enumerate() {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let place = 1 + spans.len() + piece;
            for dispatch in &program.dispatches {
                if dispatch.over == Over::Logits && dispatch.holds(rows) {
                    record(&mut pass, dispatch, dispatch.bind_group.as_ref(), place, rows);
                }
            }
            drop(pass);
            let logits = &program.memory.logits;
            encoder.copy_buffer_to_buffer(logits, 0, staging, 0, Some(*bytes));
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

    async fn run(&self, mut runs: Vec<BackendRun<'_>>) -> Result<(), Error> {
        let readback = self.submit(&mut runs)?;
        if readback.is_empty() {
            return self.program.device.check();
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

pub(super) fn record(
    pass: &mut wgpu::ComputePass<'_>,
    dispatch: &Dispatch,
    bind_group: Option<&wgpu::BindGroup>,
    step: usize,
    tokens: usize,
) {
    let [x, y] = dispatch.groups(tokens);
    pass.set_pipeline(&dispatch.kernel.pipeline);
    pass.set_bind_group(0, bind_group, &[(step * STEP_STRIDE) as u32]);
    pass.dispatch_workgroups(x, y, 1);
}

/// Sizes of a plan that memory depends on.
struct Sizes {
    /// Elements of the widest row of any buffer that has one for each token.
    widest: usize,
    /// Elements of the widest input of a tiled projection.
    prepared: usize,
    /// Elements of the widest row of queries.
    queries: usize,
    /// Most turns that a thread takes in the loops of an op for a token.
    turns: usize,
}

impl Sizes {
    fn of(plan: &Plan) -> Self {
        let (mut prepared, mut queries, mut shares, mut turns) = (1, 1, 1, 1);
        for op in &plan.ops {
            turns = turns.max(match op {
                Op::MambaScan(op) => op.state_dim.div_ceil(16) * (10 + op.state_dim / 16),
                // Scans in chunks and attention in tiles go through a chunk at a time.
                _ => 1,
            });
            match op {
                Op::Linear(op) => prepared = prepared.max(op.input.width),
                Op::GatedLinear(op) => prepared = prepared.max(op.gate.weight.cols),
                Op::Head(op) => prepared = prepared.max(op.linear.weight.cols),
                Op::Attention(op) => queries = queries.max(op.heads * op.head_dim),
                Op::MoeUp(op) => {
                    prepared = prepared.max(op.experts.first().map_or(0, |(gate, _)| gate.cols))
                }
                Op::MoeDown(op) => {
                    let parts = op.top_k * op.inner().next_multiple_of(PREPARED);
                    let shared = op.shared.as_ref().map_or(0, |down| down.cols);
                    prepared = prepared.max(parts + shared.next_multiple_of(PREPARED));
                    let rows = op.experts.first().map_or(0, |down| down.rows);
                    shares = shares.max((op.top_k + 1) * rows);
                }
                _ => {}
            }
        }
        let prepared = prepared.next_multiple_of(PREPARED);
        let slots = plan.slots.iter().copied().max().unwrap_or(0);
        Self { widest: slots.max(prepared).max(queries).max(shares), prepared, queries, turns }
    }
}

/// `tokens`, or as few that what ops need in between fits into a binding: whole chunks, or what goes without them.
fn fitting(plan: &Plan, tokens: usize, bound: u64) -> usize {
    let fits = |tokens| 4 * scratch::Sizes::most(plan, tokens, bound).largest() as u64 <= bound;
    let mut tokens = tokens;
    while tokens > scratch::CHUNK && !fits(tokens) {
        tokens = (tokens - 1) / scratch::CHUNK * scratch::CHUNK;
    }
    if fits(tokens) { tokens } else { tokens.min(FEW) }
}

fn memory(
    device: &Device,
    plan: &Plan,
    sizes: &Sizes,
    chunk: usize,
    logit_rows: usize,
) -> Result<Memory, Error> {
    let storage = wgpu::BufferUsages::STORAGE;
    let written = storage | wgpu::BufferUsages::COPY_DST;
    let rows = |rows: usize, width: usize| 4 * (rows as u64).saturating_mul(width as u64);
    let slot = |width: &usize| device.buffer("activations", rows(chunk, *width), storage);
    // The step, its runs, and pieces of logits: there are no more of either than tokens.
    let steps = ((2 * chunk + 2) * STEP_STRIDE) as u64;
    let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let read = storage | wgpu::BufferUsages::COPY_SRC;
    let between = scratch::Sizes::most(plan, chunk, device.max_binding);
    let scratch = |elements: usize| device.buffer("scratch", rows(elements, 1), storage);
    Ok(Memory {
        slots: plan.slots.iter().map(slot).collect::<Result<_, Error>>()?,
        tokens: device.buffer("tokens", rows(chunk, 1), written | wgpu::BufferUsages::COPY_SRC)?,
        wanted: device.buffer("tokens", rows(chunk, 1), written)?,
        step: device.unbound_buffer("steps", steps, uniform)?,
        prepared: device.buffer("activations", rows(chunk, sizes.prepared), storage)?,
        factors: device.buffer("activations", rows(chunk, 1), storage)?,
        queries: device.buffer("queries", rows(chunk, sizes.queries), storage)?,
        logits: device.buffer("logits", rows(logit_rows, plan.vocab), read)?,
        scratch: Scratch {
            tokens: scratch(between.tokens)?,
            squares: scratch(between.squares)?,
            states: scratch(between.states)?,
            chunks: scratch(between.chunks)?,
            counters: scratch(between.counters)?,
        },
    })
}

/// Adds the dispatches of an op.
fn add(op: &Op, builder: &mut Builder<'_>) -> Result<(), Error> {
    if !matches!(op, Op::MoeUp(_) | Op::MoeDown(_)) {
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
        Op::MoeRoute(op) => super::moe_route::add(op, builder),
        Op::MoeUp(op) => super::moe_up::add(op, builder),
        Op::MoeDown(op) => super::moe_down::add(op, builder),
        Op::Head(op) => super::head::add(op, builder),
    }
}

impl Executable for WgpuExecutable {
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error> {
        Ok(Box::new(WgpuState::new(self.program.clone())?))
    }

    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a> {
        Box::pin(self.run(runs))
    }

    fn ahead(&self) -> Option<Box<dyn Ahead>> {
        Some(Box::new(WgpuAhead::new(self.program.clone())))
    }

    fn describe(&self) -> String {
        let device = &self.program.device;
        let info = &device.info;
        let how = match device.reduction {
            kinglet_shaders::Reduction::Subgroup => "subgroups",
            kinglet_shaders::Reduction::Workgroup => "no subgroups",
        };
        format!("wgpu, {} ({}, {}, {how})", info.name, info.kind, info.api)
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
