//! [`Device`]: an opened adapter with its queue, its kernels and its health. All models of a process on the same
//! adapter share one, so that kernels are compiled once.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kinglet_shaders::{Arithmetic, Kernel, Reduction, Variant, WeightType};

use super::adapter::{self, AdapterInfo};
use super::capabilities::Capabilities;
use super::fault_injection;
use super::kernels::CompiledKernel;
use super::pipeline_cache::PipelineCache;
use super::reliance::{Reliance, Trait};
use crate::Error;
use crate::testing::DeviceLimits;

/// How long the device may take over what was submitted before it counts as stuck.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What makes a device another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceOptions {
    /// Which adapter; the best if not given.
    pub adapter: Option<usize>,
    /// What tests take away from it.
    pub limits: DeviceLimits,
    /// Where compiled kernels are kept from one process to the next; nowhere if not given.
    pub cache_dir: Option<PathBuf>,
}

/// An opened adapter.
pub(super) struct Device {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: AdapterInfo,
    /// What kernels may use.
    pub capabilities: Capabilities,
    /// Most bytes of a buffer that kernels see.
    pub max_binding: u64,
    pub max_groups: u32,
    pub options: DeviceOptions,
    health: Arc<Mutex<Option<Fault>>>,
    kernels: Mutex<HashMap<Variant, Arc<CompiledKernel>>>,
    /// What has failed a test here, so that kernels do without it.
    avoided: Mutex<HashSet<Reliance>>,
    /// Names of what was tested here.
    tested: Mutex<HashSet<String>>,
    pipelines: Option<PipelineCache>,
}

/// What has gone wrong with a device, outside of any call.
#[derive(Clone, Debug)]
enum Fault {
    Lost(String),
    OutOfMemory,
    Refused(String),
}

/// Devices that some model uses.
static OPEN: Mutex<Vec<Weak<Device>>> = Mutex::new(Vec::new());

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// The device for `options`: one that is open, or a new one.
    ///
    /// # Errors
    /// When there is no such adapter, or it refuses.
    pub(super) fn shared(options: DeviceOptions) -> Result<Arc<Self>, Error> {
        if cfg!(target_family = "wasm") {
            if let Some(device) = Self::opened(&options) {
                return Ok(device);
            }
            return Err(Error::Unsupported {
                what: "blocking on a device: open the model asynchronously",
            });
        }
        // Whoever comes meanwhile waits for the same device.
        static OPENING: Mutex<()> = Mutex::new(());
        let _opening = lock(&OPENING);
        pollster::block_on(Self::shared_async(options))
    }

    /// [`Device::shared`] without blocking: while the result is held, that finds it.
    ///
    /// # Errors
    /// As [`Device::shared`].
    pub(super) async fn shared_async(options: DeviceOptions) -> Result<Arc<Self>, Error> {
        if let Some(device) = Self::opened(&options) {
            return Ok(device);
        }
        let device = Arc::new(Self::open(options).await?);
        lock(&OPEN).push(Arc::downgrade(&device));
        Ok(device)
    }

    /// A sound device for `options` that is open.
    fn opened(options: &DeviceOptions) -> Option<Arc<Self>> {
        let mut open = lock(&OPEN);
        open.retain(|device| device.strong_count() > 0);
        let sound = |device: &Arc<Self>| device.options == *options && device.check().is_ok();
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
        let choice = adapter::choose(options.adapter).await?;
        let info = choice.info;
        let mut capabilities = info.capabilities.allowed()?;
        capabilities.subgroups &= !options.limits.avoid_subgroups;
        let capabilities = capabilities.consistent();
        // What WebGPU promises everywhere, but large buffers where there are some.
        let mut limits = wgpu::Limits::default();
        limits.max_buffer_size = info.max_buffer.max(limits.max_buffer_size);
        limits.max_storage_buffer_binding_size =
            info.max_binding.max(limits.max_storage_buffer_binding_size);
        let mut experimental = wgpu::ExperimentalFeatures::disabled();
        if capabilities.cooperative_matrices {
            limits.max_compute_workgroup_storage_size = adapter::COOPERATIVE_WORKGROUP_BYTES;
            experimental = super::trusted::experimental_features();
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("kinglet"),
            required_features: capabilities.features(),
            required_limits: limits.clone(),
            experimental_features: experimental,
            ..Default::default()
        };
        let (device, queue) =
            choice.adapter.request_device(&descriptor).await.map_err(|error| Error::Device {
                adapter: info.name.clone(),
                message: format!("can't be opened: {error}"),
            })?;
        let health = Arc::new(Mutex::new(None));
        let lost = health.clone();
        // Also called when the last reference is dropped; nobody asks for its health then.
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
        let own = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let pipelines = match (&options.cache_dir, capabilities.pipeline_cache) {
            (Some(folder), true) => PipelineCache::open(&device, &choice.adapter, folder),
            _ => None,
        };
        Ok(Self {
            device,
            queue,
            capabilities,
            max_binding: options.limits.max_binding.map_or(own, |bound| bound.min(own)) & !15,
            max_groups: limits.max_compute_workgroups_per_dimension,
            options,
            info,
            health,
            kernels: Mutex::default(),
            avoided: Mutex::default(),
            tested: Mutex::default(),
            pipelines,
        })
    }

    /// An error if something has gone wrong with the device.
    pub(super) fn check(&self) -> Result<(), Error> {
        let adapter = self.info.name.clone();
        match lock(&self.health).clone() {
            None => Ok(()),
            Some(Fault::Lost(message)) => Err(Error::DeviceLost { adapter, message }),
            Some(Fault::OutOfMemory) => Err(Error::DeviceMemory { what: "a step", bytes: 0 }),
            Some(Fault::Refused(message)) => Err(Error::Device { adapter, message }),
        }
    }

    /// A fault of our own.
    pub(super) fn fault(&self, message: impl Into<String>) -> Error {
        Error::Device { adapter: self.info.name.clone(), message: message.into() }
    }

    /// A buffer of zeros for `what`, of at least 16 bytes. It may be bound as a whole.
    ///
    /// # Errors
    /// When it is too large for the device, or there is no memory.
    pub(super) fn buffer(
        &self,
        what: &'static str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, Error> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > self.max_binding {
            return Err(Error::DeviceLimit {
                what: format!("a buffer for {what}"),
                needed: size,
                limit: self.max_binding,
            });
        }
        self.unbound_buffer(what, size, usage)
    }

    /// A buffer that is not bound as a whole.
    ///
    /// # Errors
    /// When there is no memory.
    pub(super) fn unbound_buffer(
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

    /// The variant of a kernel that is used here: the fastest that there is and that may be used, or where `exact` is set that in `f32`.
    pub(super) fn variant(&self, kernel: Kernel, weights: WeightType, exact: bool) -> Variant {
        let candidates = kernel.arithmetics(weights).iter();
        let arithmetic = candidates.copied().find(|&arithmetic| {
            let has = match arithmetic {
                Arithmetic::F32 => true,
                Arithmetic::Int8 => self.capabilities.dot_int8,
                Arithmetic::F16 => self.capabilities.f16,
                Arithmetic::Cooperative => self.capabilities.cooperative_matrices,
            };
            arithmetic == Arithmetic::F32
                || has && !exact && !self.avoids(kernel, weights, arithmetic.into())
        });
        self.variant_in(kernel, weights, arithmetic.unwrap_or(Arithmetic::F32))
    }

    /// The variant of a kernel in this arithmetic.
    pub(super) fn variant_in(
        &self,
        kernel: Kernel,
        weights: WeightType,
        arithmetic: Arithmetic,
    ) -> Variant {
        let subgroups =
            self.capabilities.subgroups && !self.avoids(kernel, weights, Trait::Subgroups);
        let reduction = if subgroups { Reduction::Subgroup } else { Reduction::Workgroup };
        Variant::new(kernel, weights, reduction, arithmetic)
    }

    /// Whether tokens may be chosen here, rather than on the host.
    pub(super) fn chooses(&self) -> bool {
        !self.avoided().contains(&Reliance::choosing())
    }

    fn avoids(&self, kernel: Kernel, weights: WeightType, needed: Trait) -> bool {
        lock(&self.avoided).contains(&Reliance::new(kernel, weights, needed))
    }

    /// Has kernels do without these from now on, and only these.
    pub(super) fn avoid(&self, reliances: HashSet<Reliance>) {
        *lock(&self.avoided) = reliances;
    }

    /// What kernels do without.
    pub(super) fn avoided(&self) -> HashSet<Reliance> {
        lock(&self.avoided).clone()
    }

    /// Whether something was tested.
    pub(super) fn was_tested(&self, what: &str) -> bool {
        lock(&self.tested).contains(what)
    }

    /// Notes that something was tested.
    pub(super) fn is_tested(&self, what: String) {
        lock(&self.tested).insert(what);
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

    /// Variants that the driver has refused.
    pub(super) fn refused(&self) -> Vec<Variant> {
        let kernels = lock(&self.kernels);
        let refused = kernels.values().filter(|kernel| kernel.was_refused());
        refused.map(|kernel| kernel.variant).collect()
    }

    /// What the driver keeps of compiled kernels.
    pub(super) fn pipelines(&self) -> Option<&wgpu::PipelineCache> {
        self.pipelines.as_ref().map(PipelineCache::handle)
    }

    /// Writes what the driver keeps of compiled kernels to disk, if that was asked for and it is new.
    pub(super) fn keep_pipelines(&self) {
        if let Some(pipelines) = &self.pipelines {
            pipelines.write();
        }
    }

    /// An error if something has gone wrong that the driver has told of by now.
    pub(super) fn look(&self) -> Result<(), Error> {
        // What is wrong with that comes out as a fault.
        let _ = self.device.poll(wgpu::PollType::Poll);
        self.check()
    }

    /// Waits for a submission, or for all.
    ///
    /// # Errors
    /// When the device is lost or doesn't answer.
    pub(super) fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), Error> {
        let timeout = fault_injection::timeout().unwrap_or(TIMEOUT);
        let wait = wgpu::PollType::Wait { submission_index: submission, timeout: Some(timeout) };
        match self.device.poll(wait) {
            Ok(_) => self.check(),
            Err(_) => {
                self.check()?;
                let (adapter, seconds) = (self.info.name.clone(), timeout.as_secs());
                Err(Error::DeviceTimeout { adapter, seconds })
            }
        }
    }
}
