//! [`Executable`] and [`SessionState`]: the traits that a backend implements.
//!
//! Device work is asynchronous in the browser, so a step is a future. On the CPU it is ready when
//! first polled. [`Model`](crate::Model) has blocking and asynchronous calls on top.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use crate::Error;
use crate::cancel::Cancel;
use crate::plan::op::StateId;

/// Which logits of a run to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// None: the tokens only update the state.
    None,
    /// Those of the run's last token, for sampling.
    #[default]
    Last,
    /// Those of every token, for perplexity or for verifying a draft.
    All,
}

impl Logits {
    /// Rows of logits for a run of `tokens` tokens.
    pub fn rows(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => tokens.min(1),
            Self::All => tokens,
        }
    }
}

/// One sequence's part of a step: its tokens, the state they update, and where its logits go.
pub struct BackendRun<'a> {
    /// At least one. Ids are below the plan's `vocab`, unless `vectors` is given.
    pub tokens: &'a [u32],
    /// `[tokens, width]`, finite. Replaces the tokens' embeddings; `tokens` then holds no valid
    /// ids. Such a run is alone in its step.
    pub vectors: Option<&'a [f32]>,
    /// Made by [`Executable::new_state`] of the same executable.
    pub state: &'a mut dyn SessionState,
    /// Which logits to append.
    pub wanted: Logits,
    /// Logits are appended here, `[rows, vocab]`.
    pub logits: &'a mut Vec<f32>,
    /// If given, the residual stream after the last block, before the final norm, is appended here
    /// for every token, `[tokens, hidden]`.
    pub stream: Option<&'a mut Vec<f32>>,
}

/// The future of a step.
pub type StepFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

/// How a device chooses a token: the part of [`SamplingOptions`](crate::sampling::SamplingOptions)
/// that needs only the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenChoice {
    /// The most probable token. Ties go to the lowest id.
    Greedy,
    /// A random token.
    Drawn(Draw),
}

/// How a token is drawn; see [`Sampler`](crate::sampling::Sampler).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Divides the logits before tokens are ruled out.
    pub cut_temperature: f32,
    /// Divides the remaining logits once more.
    pub draw_temperature: f32,
    /// Keeps only the `top_k` most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps only the most probable tokens that together reach this probability.
    pub top_p: f32,
    /// Keeps only tokens with at least this share of the largest probability.
    pub min_p: f32,
    /// The random number in `[0, 1)` that picks a place in the cumulative probabilities.
    pub number: f64,
}

impl Draw {
    /// Whether probabilities are accumulated from the most probable token down. If not, in order of
    /// ids.
    pub fn by_rank(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0
    }
}

/// The future of a token that a device chooses; `None` if it leaves the choice to the host.
pub type TokenFuture<'a> = Pin<Box<dyn Future<Output = Result<Option<u32>, Error>> + 'a>>;

/// Single-token steps of one sequence that run ahead of the host: each step chooses the next token
/// on the device.
///
/// Steps still in flight when the host stops have already changed the state; the caller must go
/// back to a snapshot. Steps of other sequences may run in between.
pub trait Ahead: Send {
    /// Whether the device can choose tokens this way.
    fn can(&self, choice: &TokenChoice) -> bool;

    /// Submits a step for `token`, or for the token that the last step chose. After an error, or if
    /// a step left the choice to the host, the state is undefined.
    fn submit<'a>(
        &'a mut self,
        token: Option<u32>,
        state: &'a mut dyn SessionState,
        choice: TokenChoice,
    ) -> StepFuture<'a>;

    /// Waits for the oldest step in flight and returns the token it chose.
    fn next(&mut self) -> TokenFuture<'_>;

    /// Number of steps in flight: submitted, but not yet returned by [`Ahead::next`].
    fn under_way(&self) -> usize;
}

/// The time that a kernel took in a step.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// On a GPU the op, its form and the format of its weights, such as `linear.rows.affine4.subgroup.int8`; on the CPU the op.
    pub name: String,
    /// Number of launches, or of ops.
    pub count: usize,
    /// Total time over all of them.
    pub nanoseconds: f64,
}

impl KernelTime {
    /// The time of each kernel, the longest first, from the name and the nanoseconds of each launch.
    pub(crate) fn sums<N: AsRef<str>>(names: &[N], times: &[f64]) -> Vec<Self> {
        let mut sums: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for (name, nanoseconds) in names.iter().zip(times) {
            let (count, time) = sums.entry(name.as_ref()).or_default();
            *count += 1;
            *time += nanoseconds;
        }
        let sums = sums.into_iter();
        let mut times: Vec<_> = sums
            .map(|(name, (count, nanoseconds))| Self { name: name.into(), count, nanoseconds })
            .collect();
        times.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
        times
    }
}

/// The future of a profiled step: the time of each kernel, slowest first.
pub type ProfileFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<KernelTime>, Error>> + 'a>>;

/// A plan compiled for a device.
pub trait Executable: Send + Sync {
    /// Creates the state of a sequence without tokens.
    ///
    /// # Errors
    /// If there is not enough memory.
    fn new_state(&self) -> Result<Box<dyn SessionState>, Error>;

    /// Computes all runs together. After an error the states of the runs are undefined.
    fn step<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> StepFuture<'a>;

    /// Like [`Executable::step`], but ends early with [`Error::Cancelled`] if one of `cancels` is
    /// set and the backend can stop midway.
    fn step_until<'a>(
        &'a self,
        runs: Vec<BackendRun<'a>>,
        cancels: &'a [Cancel],
    ) -> StepFuture<'a> {
        let _ = cancels;
        self.step(runs)
    }

    /// Like [`Executable::step`], but measures the time of each kernel on the device. Kernels run
    /// one at a time, so the step takes longer.
    fn profile<'a>(&'a self, runs: Vec<BackendRun<'a>>) -> ProfileFuture<'a> {
        let _ = runs;
        Box::pin(async { Err(Error::Unsupported { what: "measuring kernels" }) })
    }

    /// Bandwidth of the device's memory in bytes per second, measured with a copy; `None` if the
    /// backend uses the host's memory.
    ///
    /// # Errors
    /// If there is not enough memory to measure with, or the device fails.
    fn memory_bandwidth(&self) -> Result<Option<f64>, Error> {
        Ok(None)
    }

    /// Makes the device fail as if it had been unplugged. Does nothing on the CPU.
    #[cfg(feature = "testing")]
    fn lose_device(&self) {}

    /// For a sequence whose tokens the device chooses by itself; `None` if the device can't.
    fn ahead(&self) -> Option<Box<dyn Ahead>> {
        None
    }

    /// One line about backend, device and threads, for people to read.
    fn describe(&self) -> String;

    /// Threads of the host that compute.
    fn threads(&self) -> usize;

    /// Most tokens in a step, over all its runs.
    fn max_step_tokens(&self) -> usize;

    /// Kernels that a step launches for runs with these numbers of tokens and the logits of each
    /// one's last; 0 if the backend launches none.
    fn dispatches(&self, runs: &[usize]) -> usize {
        let _ = runs;
        0
    }

    /// Bytes allocated for the recurrent tensors of all sessions, with what is not in use; 0 if the
    /// backend does not know.
    #[cfg(feature = "testing")]
    fn tensor_bytes(&self) -> usize {
        0
    }
}

/// One state of a plan in the form that all backends share: what saved sessions hold.
#[derive(Clone, Debug, PartialEq)]
pub enum PortableState {
    /// A recurrent tensor, in the plan's shape.
    Tensor(Vec<f32>),
    /// Keys and values of the positions from `first` to the last. With an attention window these
    /// are only the positions that the next token sees, preceded by those of the sinks that lie
    /// before `first`.
    KeyValue {
        /// The first position.
        first: usize,
        /// `[kv_heads, positions, key_dim]`, after norm and rotation.
        keys: Vec<f32>,
        /// `[kv_heads, positions, value_dim]`; empty where values are elements of the keys.
        values: Vec<f32>,
    },
}

/// The future of an exported state.
pub type ExportFuture<'a> = Pin<Box<dyn Future<Output = Result<PortableState, Error>> + 'a>>;

/// The state of one sequence on a backend's device.
///
/// A new backend can leave the methods with defaults for later: sessions work without them, but
/// can't be cut, saved or have their memory counted exactly.
pub trait SessionState: Any + Send {
    /// Copies the state on the device. The copy shares nothing that is later written to, and is
    /// never stepped itself.
    ///
    /// # Errors
    /// If there is not enough memory.
    fn snapshot(&self) -> Result<Box<dyn SessionState>, Error>;

    /// Bytes held.
    fn bytes(&self) -> usize;

    /// Calls `visit` with an id and the size in bytes of each block of memory that the state holds.
    /// A block that several states share has the same id in each, so that it can be counted once.
    fn blocks(&self, visit: &mut dyn FnMut(usize, usize)) {
        visit(std::ptr::from_ref(self).cast::<()>().addr(), self.bytes());
    }

    /// The lowest position that [`SessionState::cut_attention`] can go back to; `usize::MAX` if it
    /// can't cut at all.
    fn attention_floor(&self) -> usize {
        usize::MAX
    }

    /// Drops keys and values from `position` on; the next token will be at `position`. Recurrent
    /// tensors stay as they are: the caller must bring them to that position.
    ///
    /// # Errors
    /// If `position` is below [`SessionState::attention_floor`] or past the end. Nothing has
    /// changed then.
    fn cut_attention(&mut self, position: usize) -> Result<(), Error> {
        let _ = position;
        Err(Error::Unsupported { what: "cutting a key/value cache" })
    }

    /// Copies one state to the host.
    fn export(&self, id: StateId) -> ExportFuture<'_> {
        let _ = id;
        Box::pin(async { Err(Error::Unsupported { what: "saving a session" }) })
    }

    /// Replaces one state with that of a sequence of `position` tokens. Called on a new state, once
    /// for every state of the plan, always with the same position.
    ///
    /// # Errors
    /// If the state doesn't match the plan, or there is not enough memory.
    fn import(&mut self, position: usize, id: StateId, state: PortableState) -> Result<(), Error> {
        let _ = (position, id, state);
        Err(Error::Unsupported { what: "loading a session" })
    }

    /// Lets the backend downcast to its own type.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}
