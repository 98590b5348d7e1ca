//! What a backend is: it turns a [`Plan`] into an [`Executable`] once, which then only runs it.
//!
//! Device work is asynchronous in the browser, so a step is a future; on the CPU it is ready when it is
//! first polled. [`Model`](crate::Model) has blocking and asynchronous calls over this.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;

use std::sync::Arc;

use crate::cpu::CpuExecutable;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, ModelOptions};

/// Which logits of a run are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// None: the tokens are only taken into the state.
    None,
    /// Those of the run's last token: what sampling needs.
    #[default]
    Last,
    /// Those of every token: perplexity, verification of a draft.
    All,
}

impl Logits {
    /// Rows of logits for a run of `tokens`.
    pub fn rows(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => tokens.min(1),
            Self::All => tokens,
        }
    }
}

/// Which backend computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The best there is here.
    #[default]
    Auto,
    /// The processor.
    Cpu,
}

impl Backend {
    /// Every backend by the name that command lines use.
    pub const NAMES: &[(&str, Self)] = &[("auto", Self::Auto), ("cpu", Self::Cpu)];
}

impl std::str::FromStr for Backend {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, backend)| *backend).ok_or_else(|| Error::Option {
            name: "backend",
            value: name.into(),
            expected: "one of auto, cpu",
        })
    }
}

/// Makes `plan` ready to run with `weights` on the backend that `options` name. [`Model`](crate::Model) does this for
/// a checkpoint; a plan of one's own can be run the same way.
///
/// # Errors
/// When a tensor of the plan is not among the weights, an option is out of range, or the device refuses.
pub fn compile(
    plan: Arc<Plan>,
    weights: &Weights,
    options: &ModelOptions,
) -> Result<Box<dyn Executable>, Error> {
    match options.backend {
        Backend::Auto | Backend::Cpu => Ok(Box::new(CpuExecutable::new(plan, weights, options)?)),
    }
}

/// One sequence's share of a step: some tokens, what they do to its state, and where its logits go.
pub struct BackendRun<'a> {
    /// At least one; ids are below the plan's `vocab`.
    pub tokens: &'a [u32],
    /// Made by the same executable's [`Executable::new_state`].
    pub state: &'a mut dyn SessionState,
    /// Which logits to append.
    pub wanted: Logits,
    /// Logits are appended here, `[rows, vocab]`.
    pub logits: &'a mut Vec<f32>,
}

/// The future of a step.
pub type StepFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// A plan made ready to run on a device.
pub trait Executable: Send + Sync {
    /// The state of a sequence without tokens.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error>;

    /// Runs all runs together. After an error the states that took part are undefined.
    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a>;

    /// Backend, device, threads: a line for people.
    fn describe(&self) -> String;

    /// Threads of the host that compute.
    fn threads(&self) -> usize;

    /// Most tokens that a step may have in all its runs together.
    fn max_step_tokens(&self) -> usize;
}

/// The state of one sequence on a backend's device.
pub trait SessionState: Any + Send {
    /// A copy that shares nothing that is written to.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn snapshot(&self) -> Result<Box<dyn SessionState>, Error>;

    /// Bytes held.
    fn bytes(&self) -> usize;

    /// For the backend, which knows its own state's type.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}
