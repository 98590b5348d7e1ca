//! [`Device`]: an open adapter with its queue, its kernels and its health. All models of a process on the same adapter share one, so that
//! kernels are compiled once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use kinglet_shaders::Variant;

use super::super::api::{Gpu, Region, Usage};
use super::super::recording::Launch;
use super::super::target::{DeviceOptions, Target, lock};
use super::commands::{Commands, ReadyLaunch};
use super::kernels::{CompiledKernel, Compiler};
use super::pipeline_cache::PipelineCache;
use super::timer::Timer;
use super::{adapter, capabilities, readback, trusted};
use crate::Error;
use crate::plan::op::StateId;

/// How long the device may take for what was submitted before it counts as stuck.
const TIMEOUT: Duration = Duration::from_secs(120);

/// An open adapter.
pub(crate) struct Device {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) target: Target,
    health: Arc<Mutex<Option<Fault>>>,
    kernels: Mutex<HashMap<Variant, Arc<CompiledKernel>>>,
    pipelines: Option<PipelineCache>,
}

/// What has gone wrong with a device since it was opened.
#[derive(Clone, Debug)]
enum Fault {
    Lost(String),
    OutOfMemory,
    Refused(String),
}

/// Devices that some model uses.
static OPEN: Mutex<Vec<Weak<Device>>> = Mutex::new(Vec::new());

impl Device {
    /// See [`Gpu::open`].
    fn shared(options: DeviceOptions) -> Result<Arc<Self>, Error> {
        if cfg!(target_family = "wasm") {
            if let Some(device) = Self::opened(&options) {
                return Ok(device);
            }
            return Err(Error::Unsupported {
                what: "blocking on a device: open the model asynchronously",
            });
        }
        // Other threads wait here for the same device.
        static OPENING: Mutex<()> = Mutex::new(());
        let _opening = lock(&OPENING);
        pollster::block_on(Self::shared_async(options))
    }

    /// See [`Gpu::open_async`].
    async fn shared_async(options: DeviceOptions) -> Result<Arc<Self>, Error> {
        if let Some(device) = Self::opened(&options) {
            return Ok(device);
        }
        let device = Arc::new(Self::open(options).await?);
        lock(&OPEN).push(Arc::downgrade(&device));
        Ok(device)
    }

    /// A device for `options` that is open and has not failed.
    fn opened(options: &DeviceOptions) -> Option<Arc<Self>> {
        let mut open = lock(&OPEN);
        open.retain(|device| device.strong_count() > 0);
        let sound =
            |device: &Arc<Self>| device.target.options == *options && device.check().is_ok();
        open.iter().filter_map(Weak::upgrade).find(sound)
    }

    /// What `make` makes, and the error of the kind `filter` that it leads to. In the browser, where nothing can be waited for here, errors
    /// come later: as those that nobody asked for, which [`Device::check`] gives.
    pub(super) fn caught<T>(
        &self,
        filter: wgpu::ErrorFilter,
        make: impl FnOnce() -> T,
    ) -> (T, Option<wgpu::Error>) {
        if cfg!(target_family = "wasm") {
            return (make(), None);
        }
        let scope = self.device.push_error_scope(filter);
        let made = make();
        (made, pollster::block_on(scope.pop()))
    }

    async fn open(options: DeviceOptions) -> Result<Self, Error> {
        let candidate = adapter::choose(options.adapter).await?;
        let info = candidate.info;
        let mut capabilities = info.capabilities.allowed()?;
        capabilities.subgroups &= !options.limits.avoid_subgroups;
        let capabilities = capabilities.consistent();
        // WebGPU's defaults, and larger buffers where the adapter has them.
        let mut limits = wgpu::Limits::default();
        limits.max_buffer_size = info.max_buffer.max(limits.max_buffer_size);
        limits.max_storage_buffer_binding_size =
            info.max_binding.max(limits.max_storage_buffer_binding_size);
        let mut experimental = wgpu::ExperimentalFeatures::disabled();
        if capabilities.cooperative_matrices {
            limits.max_compute_workgroup_storage_size = adapter::COOPERATIVE_WORKGROUP_BYTES;
            experimental = trusted::experimental_features();
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("kinglet"),
            required_features: capabilities::features(capabilities),
            required_limits: limits.clone(),
            experimental_features: experimental,
            ..Default::default()
        };
        let (device, queue) =
            candidate.adapter.request_device(&descriptor).await.map_err(|error| Error::Device {
                adapter: info.name.clone(),
                message: format!("can't be opened: {error}"),
            })?;
        let health = Arc::new(Mutex::new(None));
        let lost = health.clone();
        // Also called when the last reference is dropped, which nobody notices.
        device.set_device_lost_callback(move |_, message| {
            *lock(&lost) = Some(Fault::Lost(message));
        });
        let refused = health.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let fault = match error {
                wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory,
                wgpu::Error::Validation { description, .. }
                | wgpu::Error::Internal { description, .. } => Fault::Refused(description),
            };
            // The first is the cause of the others.
            lock(&refused).get_or_insert(fault);
        }));
        let pipelines = match (&options.cache_dir, capabilities.pipeline_cache) {
            (Some(folder), true) => PipelineCache::open(&device, &candidate.adapter, folder),
            _ => None,
        };
        let bounds = [limits.max_buffer_size, limits.max_storage_buffer_binding_size];
        let groups = limits.max_compute_workgroups_per_dimension;
        let mut target = Target::new(info, capabilities, bounds, groups, options);
        target.has_faults = has_faults();
        Ok(Self { device, queue, target, health, kernels: Mutex::default(), pipelines })
    }

    /// A kernel, which may not be compiled yet.
    ///
    /// # Errors
    /// When there is no such variant.
    pub(super) fn kernel(&self, variant: Variant) -> Result<Arc<CompiledKernel>, Error> {
        let mut kernels = lock(&self.kernels);
        if let Some(kernel) = kernels.get(&variant) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(CompiledKernel::new(self, variant)?);
        kernels.insert(variant, kernel.clone());
        Ok(kernel)
    }

    /// The driver's cache of compiled kernels.
    pub(super) fn pipelines(&self) -> Option<&wgpu::PipelineCache> {
        self.pipelines.as_ref().map(PipelineCache::handle)
    }

    /// Writes what is new in the driver's cache of compiled kernels to disk, if it is kept.
    pub(super) fn keep_pipelines(&self) {
        if let Some(pipelines) = &self.pipelines {
            pipelines.write();
        }
    }

    /// A buffer of any usage.
    ///
    /// # Errors
    /// When there is no memory.
    pub(super) fn create_buffer(
        &self,
        what: &'static str,
        size: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, Error> {
        self.check()?;
        let descriptor =
            wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
        let create = || self.device.create_buffer(&descriptor);
        match self.caught(wgpu::ErrorFilter::OutOfMemory, create) {
            (_, Some(_)) => Err(Error::DeviceMemory { what, bytes: size }),
            (buffer, None) => self.check().map(|()| buffer),
        }
    }
}

#[cfg(feature = "testing")]
fn has_faults() -> bool {
    super::fault_injection::is_on()
}

#[cfg(not(feature = "testing"))]
fn has_faults() -> bool {
    false
}

/// How long the device may take for what was submitted.
#[cfg(feature = "testing")]
fn timeout() -> Duration {
    super::fault_injection::timeout().unwrap_or(TIMEOUT)
}

#[cfg(not(feature = "testing"))]
fn timeout() -> Duration {
    TIMEOUT
}

impl Gpu for Device {
    type Buffer = wgpu::Buffer;
    type Staging = wgpu::Buffer;
    type Launch = ReadyLaunch;
    type Bindings = wgpu::BindGroup;
    type Compiler = Compiler;
    type Commands = Commands;
    type Submission = wgpu::SubmissionIndex;
    type Timer = Timer;

    fn open(options: DeviceOptions) -> Result<Arc<Self>, Error> {
        Self::shared(options)
    }

    async fn open_async(options: DeviceOptions) -> Result<Arc<Self>, Error> {
        Self::shared_async(options).await
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn backend() -> &'static str {
        "wgpu"
    }

    fn check(&self) -> Result<(), Error> {
        let adapter = self.target.info.name.clone();
        match lock(&self.health).clone() {
            None => Ok(()),
            Some(Fault::Lost(message)) => Err(Error::DeviceLost { adapter, message }),
            Some(Fault::OutOfMemory) => Err(Error::DeviceMemory { what: "a step", bytes: 0 }),
            Some(Fault::Refused(message)) => Err(Error::Device { adapter, message }),
        }
    }

    fn poll(&self) -> Result<(), Error> {
        // Errors come through the callbacks.
        let _ = self.device.poll(wgpu::PollType::Poll);
        self.check()
    }

    fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), Error> {
        let timeout = timeout();
        let wait = wgpu::PollType::Wait { submission_index: submission, timeout: Some(timeout) };
        match self.device.poll(wait) {
            Ok(_) => self.check(),
            Err(_) => {
                self.check()?;
                let (adapter, seconds) = (self.target.info.name.clone(), timeout.as_secs());
                Err(Error::DeviceTimeout { adapter, seconds })
            }
        }
    }

    fn allocate(
        &self,
        what: &'static str,
        bytes: u64,
        usage: Usage,
    ) -> Result<wgpu::Buffer, Error> {
        let copied = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let bound = match usage {
            Usage::Storage => wgpu::BufferUsages::STORAGE,
            Usage::Uniform => wgpu::BufferUsages::UNIFORM,
        };
        self.create_buffer(what, bytes, bound | copied)
    }

    fn size(buffer: &wgpu::Buffer) -> u64 {
        buffer.size()
    }

    fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        self.queue.write_buffer(buffer, offset, bytes);
    }

    fn write_lines(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        lines: usize,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(size) = wgpu::BufferSize::new((lines * bytes) as u64) else { return Ok(()) };
        let view = self.queue.write_buffer_with(buffer, offset, size);
        let mut view = view.ok_or_else(|| self.target.fault("refused weights"))?;
        // Mapped memory is slow to write to in pieces.
        let mut line = vec![0u8; bytes];
        for index in 0..lines {
            fill(index, &mut line)?;
            view.slice(index * bytes..(index + 1) * bytes).copy_from_slice(&line);
        }
        Ok(())
    }

    fn compiler(self: &Arc<Self>) -> Compiler {
        Compiler::new(self)
    }

    fn refused(&self) -> Vec<Variant> {
        let kernels = lock(&self.kernels);
        let refused = kernels.values().filter(|kernel| kernel.was_refused());
        refused.map(|kernel| kernel.variant).collect()
    }

    fn prepare(
        &self,
        launch: &Launch,
        buffers: &[wgpu::Buffer],
        steps: &wgpu::Buffer,
    ) -> Result<ReadyLaunch, Error> {
        ReadyLaunch::new(self, launch, buffers, steps)
    }

    fn bind(
        &self,
        launch: &Launch,
        ready: &ReadyLaunch,
        buffers: &[wgpu::Buffer],
        steps: &wgpu::Buffer,
        state: &dyn Fn(StateId, usize) -> Option<Region<wgpu::Buffer>>,
    ) -> Result<wgpu::BindGroup, Error> {
        ready.bind(self, launch, buffers, steps, state)
    }

    fn commands(&self) -> Commands {
        Commands::new(self)
    }

    fn staging(&self, bytes: u64) -> Result<wgpu::Buffer, Error> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        self.create_buffer("logits", bytes, usage)
    }

    fn staging_size(staging: &wgpu::Buffer) -> u64 {
        staging.size()
    }

    async fn read<T: bytemuck::Pod>(
        &self,
        submission: wgpu::SubmissionIndex,
        staging: &[(wgpu::Buffer, u64)],
        take: impl FnMut(&[T]),
    ) -> Result<(), Error> {
        readback::read(self, submission, staging, take).await
    }

    fn timer(&self) -> Result<Timer, Error> {
        Timer::new(self)
    }

    async fn read_timer(&self, timer: Timer) -> Result<Vec<f64>, Error> {
        timer.read(self).await
    }

    #[cfg(feature = "testing")]
    fn lose(&self) {
        self.device.destroy();
    }
}
