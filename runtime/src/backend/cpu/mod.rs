//! The CPU backend: every op of a plan on vector units, by a team of threads.
//!
//! `cpu/NAME.rs` computes the op `NAME`. Shared modules: [`simd`] (vector units), `kernel` (the hot
//! loops), `team` and `split` (threads and the data they may write), `projection` (weight
//! matrices), `state`.
//!
//! - An algorithm is written once, generic over [`simd`], and compiled for every instruction set.
//!   The best one is chosen at run time.
//! - Prefill: matrix products over up to 96 tokens at a time; the scans of Mamba-2 and mLSTM in
//!   chunks of 64 tokens as matrix products, Mamba's by blocks of channels; attention by blocks of
//!   queries over pages of keys with an online softmax; experts with their tokens grouped.
//! - Decode reads every weight and every state once, so memory bandwidth bounds it.

#![deny(clippy::wildcard_enum_match_arm)]

mod attention;
mod concat;
mod conv1d;
mod embed;
mod expert_norm;
mod gated_delta_scan;
mod gated_linear;
mod head;
mod head_linear;
mod head_norm;
mod hybrid_attention;
mod hybrid_keys;
mod hybrid_scan;
mod inputs;
mod kernel;
mod kernel_attention;
mod kv;
mod kv_page;
mod linear;
mod linear_attention;
mod mamba2_scan;
mod mamba_scan;
mod mlstm_scan;
mod moe_down;
mod moe_route;
mod moe_up;
mod multi_level_attention;
pub(crate) mod observe;
mod positions;
mod projection;
mod residual_norm;
pub(crate) mod simd;
mod slstm_scan;
mod split;
mod state;
mod step;
mod team;
#[cfg(test)]
mod test_util;
mod threads;

use std::sync::{Arc, Mutex};

use self::simd::Isa;
use self::state::CpuState;
use self::step::{Step, StepRun, Workspace};
use self::team::Team;
pub use self::team::{Spawn, TeamThread};
use crate::backend::executable::{BackendRun, Executable, SessionState, StepFuture};
#[cfg(not(target_family = "wasm"))]
use crate::backend::executable::{KernelTime, ProfileFuture};
use crate::cancel::Cancel;
use crate::error::grow;
use crate::plan::op::{Op, StateId};
use crate::plan::{Plan, StateFormat};
use crate::weights::Weights;
use crate::{Activations, Error, ModelOptions};

/// Default tokens per step: enough that weights are rarely read from memory, few enough that
/// activations stay in cache.
const DEFAULT_CHUNK: usize = 512;

/// Upper bound on threads. More are never useful, and it limits the cost of a caller's mistake.
const MAX_THREADS: usize = 512;

/// A compiled op: it holds its weights.
trait CpuOp: Send + Sync {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error>;
}

/// A plan with its weights, ready to run.
pub(crate) struct CpuExecutable {
    plan: Arc<Plan>,
    ops: Vec<Box<dyn CpuOp>>,
    team: Team,
    isa: Isa,
    chunk: usize,
    activations: Activations,
    /// For each op, its state tensors that are stored in another format than they are computed
    /// with.
    stored: Vec<Vec<StateId>>,
    /// The lock allows one step at a time.
    workspace: Mutex<Workspace>,
}

impl CpuExecutable {
    /// Resolves the plan's tensors. Matrices stay mapped in place; small tensors are decoded.
    pub(crate) fn new(
        plan: Arc<Plan>,
        weights: &Weights,
        options: &ModelOptions,
    ) -> Result<Self, Error> {
        let threads = options.threads.unwrap_or_else(threads::default_threads);
        if !(1..=MAX_THREADS).contains(&threads) {
            let (name, value) = ("threads", threads.to_string());
            return Err(Error::Option { name, value, expected: "from 1 to 512" });
        }
        let chunk = options.chunk.unwrap_or(DEFAULT_CHUNK);
        if !(1..=1 << 16).contains(&chunk) {
            let (name, value) = ("chunk", chunk.to_string());
            return Err(Error::Option { name, value, expected: "from 1 to 65536" });
        }
        let ops = plan.ops.iter().map(|op| compile(op, weights)).collect::<Result<_, Error>>()?;
        let narrow =
            |id: &StateId| plan.states.get(id.0).is_some_and(|s| s.format == StateFormat::F16);
        let stored = |op: &Op| op.uses().states.into_iter().filter(narrow).collect();
        Ok(Self {
            ops,
            stored: plan.ops.iter().map(stored).collect(),
            team: Team::new(threads, options.spawn.as_ref()).map_err(Error::Threads)?,
            isa: options.isa.unwrap_or_else(Isa::detect),
            chunk,
            activations: options.activations,
            workspace: Mutex::new(Workspace::new(&plan, threads)),
            plan,
        })
    }

    /// Runs a step. `ended` is called with each op when it has been computed.
    fn run(
        &self,
        runs: Vec<BackendRun<'_>>,
        cancels: &[Cancel],
        mut ended: impl FnMut(&Op),
    ) -> Result<(), Error> {
        let mut guard = self.workspace.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let workspace = &mut *guard;
        let mut tokens = Vec::new();
        let vectors = runs.iter().find_map(|run| run.vectors);
        debug_assert!(vectors.is_none() || runs.len() == 1);
        let mut step_runs = Vec::with_capacity(runs.len());
        for run in runs {
            let Some(state) = run.state.as_any_mut().downcast_mut::<CpuState>() else {
                return Err(Error::ForeignSession);
            };
            state.unshare()?;
            let (start, len) = (tokens.len(), run.tokens.len());
            tokens.extend_from_slice(run.tokens);
            let BackendRun { wanted, logits, stream, .. } = run;
            step_runs.push(StepRun { start, len, state, wanted, logits, stream });
        }
        workspace.resize(tokens.len())?;
        let mut step = Step {
            team: &self.team,
            isa: self.isa,
            tokens: &tokens,
            vectors,
            runs: &mut step_runs,
            buffers: &mut workspace.buffers,
            scratch: &mut workspace.scratch,
            locals: &mut workspace.locals,
            activations: self.activations,
        };
        for (index, (op, stored)) in self.ops.iter().zip(&self.stored).enumerate() {
            if cancels.iter().any(Cancel::is_set) {
                return Err(Error::Cancelled);
            }
            for &id in stored {
                let scratch = &mut *step.scratch;
                step.runs.iter_mut().try_for_each(|run| run.state.widen(id, scratch))?;
            }
            op.run(&mut step)?;
            for &id in stored {
                let scratch = &mut *step.scratch;
                step.runs.iter_mut().for_each(|run| run.state.narrow(id, scratch));
            }
            ended(&self.plan.ops[index]);
            if cfg!(debug_assertions) {
                let broken = |values: &[f32]| values.iter().any(|x| !x.is_finite());
                let op = &self.plan.ops[index];
                let written = op.uses().writes;
                if written.iter().any(|&id| broken(step.buffers.get(id)))
                    || matches!(op, Op::Head(_)) && step.runs.iter().any(|run| broken(run.logits))
                {
                    return Err(Error::NonFinite { index, op: op.name() });
                }
            }
        }
        for run in &mut step_runs {
            if let (Some(stream), Some(id)) = (&mut run.stream, self.plan.stream()) {
                let width = workspace.buffers.width(id);
                let rows = run.start * width..(run.start + run.len) * width;
                let held = stream.len();
                grow(stream, held + rows.len(), "the residual stream")?;
                stream[held..].copy_from_slice(&workspace.buffers.get(id)[rows]);
            }
            run.state.position += run.len;
        }
        Ok(())
    }
}

fn compile(op: &Op, weights: &Weights) -> Result<Box<dyn CpuOp>, Error> {
    Ok(match op {
        Op::Embed(op) => Box::new(embed::Embed::new(op, weights)?),
        Op::Positions(op) => Box::new(positions::Positions::new(op, weights)?),
        Op::Linear(op) => Box::new(linear::Linear::new(op, weights)?),
        Op::GatedLinear(op) => Box::new(gated_linear::GatedLinear::new(op, weights)?),
        Op::HeadLinear(op) => Box::new(head_linear::HeadLinear::new(op, weights)?),
        Op::Attention(op) => Box::new(attention::Attention::new(op, weights)?),
        Op::Concat(op) => Box::new(concat::Concat::new(op)),
        Op::Conv1d(op) => Box::new(conv1d::Conv1d::new(op, weights)?),
        Op::MambaScan(op) => Box::new(mamba_scan::MambaScan::new(op, weights)?),
        Op::Mamba2Scan(op) => Box::new(mamba2_scan::Mamba2Scan::new(op, weights)?),
        Op::MLstmScan(op) => Box::new(mlstm_scan::MLstmScan::new(op, weights)?),
        Op::GatedDeltaScan(op) => Box::new(gated_delta_scan::GatedDeltaScan::new(op, weights)?),
        Op::LinearAttention(op) => Box::new(linear_attention::LinearAttention::new(op)),
        Op::HeadNorm(op) => Box::new(head_norm::HeadNorm::new(op, weights)?),
        Op::KernelAttention(op) => Box::new(kernel_attention::KernelAttention::new(op)),
        Op::SLstmScan(op) => Box::new(slstm_scan::SLstmScan::new(op, weights)?),
        Op::HybridAttention(op) => Box::new(hybrid_attention::HybridAttention::new(op, weights)?),
        Op::MultiLevelAttention(op) => {
            Box::new(multi_level_attention::MultiLevelAttention::new(op, weights)?)
        }
        Op::MoeRoute(op) => Box::new(moe_route::MoeRoute::new(op, weights)?),
        Op::ExpertNorm(op) => Box::new(expert_norm::ExpertNorm::new(op, weights)?),
        Op::MoeUp(op) => Box::new(moe_up::MoeUp::new(op, weights)?),
        Op::MoeDown(op) => Box::new(moe_down::MoeDown::new(op, weights)?),
        Op::ResidualNorm(op) => Box::new(residual_norm::ResidualNorm::new(op, weights)?),
        Op::Head(op) => Box::new(head::Head::new(op, weights)?),
    })
}

impl Executable for CpuExecutable {
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error> {
        Ok(Box::new(CpuState::new(&self.plan)?))
    }

    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a> {
        Box::pin(async move { self.run(runs, &[], |_| {}) })
    }

    fn step_until<'a>(
        &'a self,
        runs: Vec<BackendRun<'a>>,
        cancels: &'a [Cancel],
    ) -> StepFuture<'a> {
        Box::pin(async move { self.run(runs, cancels, |_| {}) })
    }

    // There is no clock in a page.
    #[cfg(not(target_family = "wasm"))]
    fn profile<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> ProfileFuture<'a> {
        Box::pin(async move {
            let (mut names, mut times) = (Vec::new(), Vec::new());
            let mut begun = std::time::Instant::now();
            self.run(runs, &[], |op| {
                names.push(op.name());
                times.push(begun.elapsed().as_secs_f64() * 1e9);
                begun = std::time::Instant::now();
            })?;
            Ok(KernelTime::sums(&names, &times))
        })
    }

    fn describe(&self) -> String {
        format!("cpu, {}, {} threads", self.isa.name(), self.team.threads())
    }

    fn threads(&self) -> usize {
        self.team.threads()
    }

    fn max_step_tokens(&self) -> usize {
        self.chunk
    }
}
