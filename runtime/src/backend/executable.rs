//! [`Executable`] and [`SessionState`]: what a backend is to the rest of the library.
//!
//! Device work is asynchronous in the browser, so a step is a future; on the CPU it is ready when it is
//! first polled. [`Model`](crate::Model) has blocking and asynchronous calls over this.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;

use crate::Error;
use crate::cancel::Cancel;
use crate::plan::op::StateId;

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

/// One sequence's share of a step: some tokens, what they do to its state, and where its logits go.
pub struct BackendRun<'a> {
    /// At least one; ids are below the plan's `vocab`.
    pub tokens: &'a [u32],
    /// `[tokens, width]`, finite: taken in place of what the tokens are embedded as, which are no ids then. Such a run is alone in its step.
    pub vectors: Option<&'a [f32]>,
    /// Made by the same executable's [`Executable::new_state`].
    pub state: &'a mut dyn SessionState,
    /// Which logits to append.
    pub wanted: Logits,
    /// Logits are appended here, `[rows, vocab]`.
    pub logits: &'a mut Vec<f32>,
}

/// The future of a step.
pub type StepFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// How a device chooses a token by itself: the part of [`SamplingOptions`](crate::sampling::SamplingOptions) that needs no more
/// than the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenChoice {
    /// The most probable, of equals the one with the lowest id.
    Greedy,
    /// By lot.
    Drawn(Draw),
}

/// How a token is drawn, see [`Sampler`](crate::sampling::Sampler).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// What logits are divided by before tokens are ruled out.
    pub cut_temperature: f32,
    /// What those that are left are divided by besides.
    pub draw_temperature: f32,
    /// Only so many of the most probable; 0 is no limit.
    pub top_k: u32,
    /// Only the most probable that together have this probability.
    pub top_p: f32,
    /// Only those with at least this share of the largest probability.
    pub min_p: f32,
    /// The place in the cumulated probabilities, from 0 to below 1.
    pub number: f64,
}

impl Draw {
    /// Whether probabilities are cumulated from the most probable token on, else in the order of the ids.
    pub fn by_rank(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0
    }
}

/// The future of a token that a device chooses; `None` where it leaves the choice to the host.
pub type TokenFuture<'a> = Pin<Box<dyn Future<Output = Result<Option<u32>, Error>> + 'a>>;

/// Steps of a single token for one sequence that run ahead of the host: each chooses the next token on the device.
///
/// The steps that are under way when the host wants no more have changed the state all the same: to go back to a snapshot is the
/// caller's business. Steps of other sequences may come between.
pub trait Ahead: Send {
    /// Whether the device can choose this way.
    fn can(&self, choice: &TokenChoice) -> bool;

    /// Submits a step: of `token`, or of the one that the last step has chosen. After an error, or where a step left the
    /// choice to the host, the state is undefined.
    fn submit<'a>(
        &'a mut self,
        token: Option<u32>,
        state: &'a mut dyn SessionState,
        choice: TokenChoice,
    ) -> StepFuture<'a>;

    /// Waits for the oldest step that is under way, and gives the token that it has chosen.
    fn next(&mut self) -> TokenFuture<'_>;

    /// Steps whose tokens were not asked for yet.
    fn under_way(&self) -> usize;
}

/// What a kernel took of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// The op, its form and how its weights are stored: `linear.rows.affine4.subgroup.int8`.
    pub name: String,
    /// How often it was launched.
    pub count: usize,
    /// From the begin of each launch to its end on the device, all together.
    pub nanoseconds: f64,
}

/// The future of a step that is measured: the time of each kernel, the longest first.
pub type ProfileFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<KernelTime>, Error>> + 'a>>;

/// A plan made ready to run on a device.
pub trait Executable: Send + Sync {
    /// The state of a sequence without tokens.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error>;

    /// Runs all runs together. After an error the states that took part are undefined.
    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a>;

    /// As [`Executable::step`], but ends early with [`Error::Cancelled`] where one of `cancels` is set and the backend can stop
    /// on the way.
    fn step_until<'a>(
        &'a self,
        runs: Vec<BackendRun<'a>>,
        cancels: &'a [Cancel],
    ) -> StepFuture<'a> {
        let _ = cancels;
        self.step(runs)
    }

    /// As [`Executable::step`], with the time that each kernel takes on the device. Kernels run one by one for that, so a step takes
    /// longer.
    fn profile<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> ProfileFuture<'a> {
        let _ = runs;
        Box::pin(async { Err(Error::Unsupported { what: "measuring kernels" }) })
    }

    /// Bytes that the device's memory reads and writes per second, measured with a copy; `None` where the host's memory is
    /// used.
    ///
    /// # Errors
    /// When there is no memory to measure with, or the device fails.
    fn memory_bandwidth(&self) -> Result<Option<f64>, Error> {
        Ok(None)
    }

    /// Makes the device fail as if it had been unplugged. The processor can't.
    #[cfg(feature = "testing")]
    fn lose_device(&self) {}

    /// For a sequence whose tokens the device is to choose by itself; `None` where it can't.
    fn ahead(&self) -> Option<Box<dyn Ahead>> {
        None
    }

    /// Backend, device, threads: a line for people.
    fn describe(&self) -> String;

    /// Threads of the host that compute.
    fn threads(&self) -> usize;

    /// Most tokens that a step may have in all its runs together.
    fn max_step_tokens(&self) -> usize;

    /// Kernels that a step launches for one run of `tokens` and the logits of the last; 0 where nothing is launched.
    fn dispatches(&self, tokens: usize) -> usize {
        let _ = tokens;
        0
    }
}

/// One state of a plan in a form that every backend understands: what saved sessions hold.
#[derive(Clone, Debug, PartialEq)]
pub enum PortableState {
    /// A recurrent tensor, in the shape that the plan gives it.
    Tensor(Vec<f32>),
    /// Keys and values of the positions from `first` to the last: all that the next token sees, and no more than
    /// that where there is a window. Before them those of the sinks that lie before `first`.
    KeyValue {
        /// The first position.
        first: usize,
        /// `[kv_heads, positions, head_dim]`, as attention uses them: normed and rotated.
        keys: Vec<f32>,
        /// `[kv_heads, positions, head_dim]`.
        values: Vec<f32>,
    },
}

/// The future of a state's copy.
pub type ExportFuture<'a> = Pin<Box<dyn Future<Output = Result<PortableState, Error>> + 'a>>;

/// The state of one sequence on a backend's device.
///
/// What has a default can be left for later by a new backend: sessions work without, but can't be cut,
/// saved or counted exactly.
pub trait SessionState: Any + Send {
    /// A copy on the device that shares nothing that is written to. It is never stepped itself.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn snapshot(&self) -> Result<Box<dyn SessionState>, Error>;

    /// Bytes held.
    fn bytes(&self) -> usize;

    /// Calls `visit` with an id and the bytes of each block of memory that is held. Blocks that several states share
    /// have one id, so that their bytes can be counted once.
    fn blocks(&self, visit: &mut dyn FnMut(usize, usize)) {
        visit(std::ptr::from_ref(self).cast::<()>().addr(), self.bytes());
    }

    /// The first position that [`SessionState::cut_attention`] can go back to; `usize::MAX` if it can't at all.
    fn attention_floor(&self) -> usize {
        usize::MAX
    }

    /// Forgets keys and values from `position` on; the next token will be at `position`. Recurrent tensors stay as they
    /// are: to bring them to that position is the caller's business.
    ///
    /// # Errors
    /// When `position` is below [`SessionState::attention_floor`] or not reached yet: nothing has changed then.
    fn cut_attention(&mut self, position: usize) -> Result<(), Error> {
        let _ = position;
        Err(Error::Unsupported { what: "cutting a key/value cache" })
    }

    /// Copies one state from the device.
    fn export(&self, id: StateId) -> ExportFuture<'_> {
        let _ = id;
        Box::pin(async { Err(Error::Unsupported { what: "saving a session" }) })
    }

    /// Puts one state of a sequence of `position` tokens in place of what is there. Called for every state of the
    /// plan, with the same position, on a new state.
    ///
    /// # Errors
    /// When its form is not the plan's, or there is no memory.
    fn import(&mut self, position: usize, id: StateId, state: PortableState) -> Result<(), Error> {
        let _ = (position, id, state);
        Err(Error::Unsupported { what: "loading a session" })
    }

    /// For the backend, which knows its own state's type.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}
