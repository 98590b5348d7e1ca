//! [`Gpu`]: what a graphics API implements. All else about running a plan on a GPU is written once, over this.

use std::future::Future;
use std::sync::Arc;

use kinglet_shaders::Variant;

use super::recording::{Call, Launch};
use super::target::{DeviceOptions, Target};
use crate::Error;
use crate::plan::op::StateId;

/// How kernels bind a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// As a storage buffer.
    Storage,
    /// As a uniform buffer.
    Uniform,
}

/// Some bytes of a buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Region<B> {
    pub buffer: B,
    pub offset: u64,
    /// Up to the end of the buffer, if not given.
    pub bytes: Option<u64>,
}

impl<B> Region<B> {
    /// All of a buffer.
    pub(super) fn whole(buffer: B) -> Self {
        Self { buffer, offset: 0, bytes: None }
    }
}

/// An open device of a graphics API. All models of a process that ask for the same device share one.
///
/// Work is ordered: what is written and submitted takes effect in the order of the calls.
pub(crate) trait Gpu: Send + Sync + Sized + 'static {
    /// Memory of the device. Clones name the same memory.
    type Buffer: Clone + PartialEq + Send + Sync;
    /// Memory that the device writes and the host reads.
    type Staging: Send;
    /// A launch that only lacks what differs from step to step.
    type Launch: Send + Sync;
    /// A launch's bindings where it uses sessions' states.
    type Bindings: Send + Sync;
    /// Compiles kernels while the host does other things.
    type Compiler: Compiler;
    /// Commands in the making.
    type Commands: Commands<Self>;
    /// Names submitted commands.
    type Submission: Send;
    /// Measures launches.
    type Timer;

    /// Opens a device, or finds one that is open.
    ///
    /// # Errors
    /// When there is no such adapter, it refuses, or the host can't wait for it here: see [`Gpu::open_async`].
    fn open(options: DeviceOptions) -> Result<Arc<Self>, Error>;

    /// [`Gpu::open`] without blocking. As long as the result is held, `open` finds it.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    fn open_async(options: DeviceOptions) -> impl Future<Output = Result<Arc<Self>, Error>>;

    /// What kernels may use here.
    fn target(&self) -> &Target;

    /// The backend's name: `wgpu`.
    fn backend() -> &'static str;

    /// An error if the device has failed.
    fn check(&self) -> Result<(), Error>;

    /// As [`Gpu::check`], after asking the driver for errors that it has not reported yet.
    fn poll(&self) -> Result<(), Error>;

    /// Waits for a submission, or for all.
    ///
    /// # Errors
    /// When the device is lost or doesn't answer.
    fn wait(&self, submission: Option<Self::Submission>) -> Result<(), Error>;

    /// Allocates a buffer of zeros; `what` names it in errors. `bytes` is a multiple of 16.
    ///
    /// # Errors
    /// When there is no memory.
    fn allocate(&self, what: &'static str, bytes: u64, usage: Usage)
    -> Result<Self::Buffer, Error>;

    /// Size of a buffer, in bytes.
    fn size(buffer: &Self::Buffer) -> u64;

    /// Writes to a buffer. `offset` and the length are multiples of 4.
    fn write(&self, buffer: &Self::Buffer, offset: u64, bytes: &[u8]);

    /// Writes `lines` lines of `bytes` bytes each; `fill` is called with the number of each and the place for it, which it overwrites. A place
    /// may hold what an earlier call has left there.
    ///
    /// # Errors
    /// Those of `fill`, and when the device refuses.
    fn write_lines(
        &self,
        buffer: &Self::Buffer,
        offset: u64,
        lines: usize,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]) -> Result<(), Error>,
    ) -> Result<(), Error>;

    /// Starts to compile.
    fn compiler(self: &Arc<Self>) -> Self::Compiler;

    /// Kernels that the driver has refused.
    fn refused(&self) -> Vec<Variant>;

    /// Makes a launch ready. `buffers` are those of the recording, by [`AllocationId`](super::recording::AllocationId); `steps` is the one with the
    /// [`Step`](super::recording::Step)s. The kernel may still be compiling.
    ///
    /// # Errors
    /// When the device refuses.
    fn prepare(
        &self,
        launch: &Launch,
        buffers: &[Self::Buffer],
        steps: &Self::Buffer,
    ) -> Result<Self::Launch, Error>;

    /// Binds a launch of [`Scope::Run`](super::recording::Scope) or `Runs` to a session's caches, or to the tensors of several sessions: `state`
    /// gives a part of them.
    ///
    /// # Errors
    /// When the device refuses, or `state` has no such part.
    fn bind(
        &self,
        launch: &Launch,
        ready: &Self::Launch,
        buffers: &[Self::Buffer],
        steps: &Self::Buffer,
        state: &dyn Fn(StateId, usize) -> Option<Region<Self::Buffer>>,
    ) -> Result<Self::Bindings, Error>;

    /// Begins commands.
    fn commands(&self) -> Self::Commands;

    /// Allocates memory that results are read from.
    ///
    /// # Errors
    /// When there is no memory.
    fn staging(&self, bytes: u64) -> Result<Self::Staging, Error>;

    /// Size of staging memory, in bytes.
    fn staging_size(staging: &Self::Staging) -> u64;

    /// Waits for a submission and gives `take` the first bytes of each staging memory, in order.
    ///
    /// # Errors
    /// When the device is lost or doesn't answer.
    fn read<T: bytemuck::Pod>(
        &self,
        submission: Self::Submission,
        staging: &[(Self::Staging, u64)],
        take: impl FnMut(&[T]),
    ) -> impl Future<Output = Result<(), Error>>;

    /// Begins to measure launches.
    ///
    /// # Errors
    /// When the device can't, or there is no memory.
    fn timer(&self) -> Result<Self::Timer, Error>;

    /// Waits for the device; nanoseconds of each measured launch, in order. There may be more launches than a timer has room for.
    ///
    /// # Errors
    /// When the device is lost or doesn't answer.
    fn read_timer(&self, timer: Self::Timer) -> impl Future<Output = Result<Vec<f64>, Error>>;

    /// Makes the device fail as if it had been unplugged.
    #[cfg(feature = "testing")]
    fn lose(&self);
}

/// Compiles kernels in the background. Dropping it abandons what was not begun.
pub(crate) trait Compiler {
    /// Requests a kernel.
    ///
    /// # Errors
    /// When there is no such variant.
    fn request(&mut self, variant: Variant) -> Result<(), Error>;

    /// Waits for all that were requested.
    ///
    /// # Errors
    /// When the driver refuses one.
    fn finish(self) -> Result<(), Error>;
}

/// Commands in the making, which are run in order.
pub(crate) trait Commands<A: Gpu> {
    /// Copies bytes from one buffer to another.
    fn copy(&mut self, from: &A::Buffer, at: u64, to: &A::Buffer, to_at: u64, bytes: u64);

    /// Fills a buffer with zeros.
    fn clear(&mut self, buffer: &A::Buffer);

    /// Copies bytes to where the host can read them.
    fn fetch(&mut self, from: &A::Buffer, at: u64, to: &A::Staging, to_at: u64, bytes: u64);

    /// Launches kernels; see [`Launches`]. With a `timer`, one by one.
    fn launch(&mut self, launches: &Launches<'_, A>, timer: Option<&mut A::Timer>);

    /// Ends the measurement of launches. Once, before the commands are submitted.
    fn finish_timer(&mut self, timer: &A::Timer);

    /// Submits the commands.
    fn submit(self) -> A::Submission;
}

/// A list of launches with what they need.
pub(crate) struct Launches<'a, A: Gpu> {
    /// What to launch, in order.
    pub calls: &'a [Call],
    /// By [`Call::launch`].
    pub ready: &'a [A::Launch],
    /// By [`Call::run`]: bindings to the states of the run's session.
    pub sessions: &'a [StateBindings<'a, A>],
}

/// Bindings to the states of a session, by [`Call::launch`].
pub(crate) struct StateBindings<'a, A: Gpu> {
    pub caches: &'a [Option<A::Bindings>],
    /// To the tensors of all sessions in its pool.
    pub tensors: &'a [Option<A::Bindings>],
}

impl<'a, A: Gpu> StateBindings<'a, A> {
    /// Those of a launch. A launch works on caches or on tensors.
    pub(super) fn of(&self, launch: usize) -> Option<&'a A::Bindings> {
        let of = |all: &'a [Option<A::Bindings>]| all.get(launch)?.as_ref();
        of(self.caches).or_else(|| of(self.tensors))
    }
}
