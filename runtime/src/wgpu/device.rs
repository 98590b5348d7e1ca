//! [`Device`]: an opened adapter with its queue, its kernels and its health. All models of a process on the same
//! adapter share one, so that kernels are compiled once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kinglet_shaders::{Arithmetic, BindingKind, Kernel, Metadata, Reduction, Variant, WeightType};

use super::adapter::{self, AdapterInfo};
use crate::Error;

/// How long the device may take over what was submitted before it counts as stuck.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What makes a device another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceOptions {
    /// Which adapter; the best if not given.
    pub adapter: Option<usize>,
    /// Whether kernels must do without subgroups.
    pub avoid_subgroups: bool,
    /// Whether kernels must do without products of packed bytes.
    pub avoid_int8: bool,
    /// Whether the driver must check what kernels index, and that their loops end.
    pub checked: bool,
    /// Whether kernels must do without arithmetic in binary16.
    pub avoid_f16: bool,
    /// Whether kernels must do without cooperative matrices.
    pub avoid_cooperative: bool,
    /// A bound on the size of what kernels see, below the adapter's own.
    pub max_binding: Option<u64>,
}

/// An opened adapter.
pub(super) struct Device {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: AdapterInfo,
    pub reduction: Reduction,
    /// Whether kernels may multiply in binary16, and by cooperative matrices.
    f16: bool,
    cooperative: bool,
    /// Most bytes of a buffer that kernels see.
    pub max_binding: u64,
    pub max_groups: u32,
    options: DeviceOptions,
    health: Arc<Mutex<Option<Fault>>>,
    kernels: Mutex<HashMap<Variant, Arc<CompiledKernel>>>,
}

/// A kernel ready to be dispatched.
pub(super) struct CompiledKernel {
    pub name: String,
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    pub metadata: &'static Metadata,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// The device for `options`: one that is open, or a new one.
    ///
    /// # Errors
    /// When there is no such adapter, or it refuses.
    pub(super) fn shared(options: DeviceOptions) -> Result<Arc<Self>, Error> {
        if cfg!(target_family = "wasm") {
            if let Some(device) = Self::opened(options) {
                return Ok(device);
            }
            return Err(Error::Unsupported {
                what: "waiting for a device here: open the model without blocking",
            });
        }
        // Whoever comes meanwhile waits for the same device.
        static OPENING: Mutex<()> = Mutex::new(());
        let _opening = lock(&OPENING);
        pollster::block_on(Self::shared_async(options))
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

    /// [`Device::shared`] without blocking: while the result is held, that finds it.
    ///
    /// # Errors
    /// As [`Device::shared`].
    pub(super) async fn shared_async(options: DeviceOptions) -> Result<Arc<Self>, Error> {
        if let Some(device) = Self::opened(options) {
            return Ok(device);
        }
        let device = Arc::new(Self::open(options).await?);
        lock(&OPEN).push(Arc::downgrade(&device));
        Ok(device)
    }

    /// A sound device for `options` that is open.
    fn opened(options: DeviceOptions) -> Option<Arc<Self>> {
        let mut open = lock(&OPEN);
        open.retain(|device| device.strong_count() > 0);
        let sound = |device: &Arc<Self>| device.options == options && device.check().is_ok();
        open.iter().filter_map(Weak::upgrade).find(sound)
    }

    async fn open(options: DeviceOptions) -> Result<Self, Error> {
        let choice = adapter::choose(options.adapter).await?;
        let info = choice.info;
        let reduction = adapter::reduction(&info, options.avoid_subgroups);
        // What WebGPU promises everywhere, but large buffers where there are some.
        let mut limits = wgpu::Limits::default();
        limits.max_buffer_size = info.max_buffer.max(limits.max_buffer_size);
        limits.max_storage_buffer_binding_size =
            info.max_binding.max(limits.max_storage_buffer_binding_size);
        let f16 = info.f16 && !options.avoid_f16;
        let cooperative = f16
            && info.cooperative_matrices
            && reduction == Reduction::Subgroup
            && !options.avoid_cooperative;
        let mut features = wgpu::Features::empty();
        features.set(wgpu::Features::SUBGROUP, reduction == Reduction::Subgroup);
        features.set(wgpu::Features::SHADER_F16, f16);
        features.set(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, cooperative);
        let mut experimental = wgpu::ExperimentalFeatures::disabled();
        if cooperative {
            limits.max_compute_workgroup_storage_size = adapter::COOPERATIVE_WORKGROUP_BYTES;
            experimental = super::trusted::experimental_features();
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("kinglet"),
            required_features: features,
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
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the last reference is how a device ends, too.
            if reason != wgpu::DeviceLostReason::Destroyed {
                *lock(&lost) = Some(Fault::Lost(message));
            }
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
        Ok(Self {
            device,
            queue,
            reduction,
            f16,
            cooperative,
            max_binding: options.max_binding.map_or(own, |bound| bound.min(own)) & !15,
            max_groups: limits.max_compute_workgroups_per_dimension,
            options,
            info,
            health,
            kernels: Mutex::new(HashMap::new()),
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

    /// The arithmetic that a kernel will use: the fastest that there is and that may be used, or where `exact` is set `f32`.
    pub(super) fn arithmetic(
        &self,
        kernel: Kernel,
        weights: WeightType,
        exact: bool,
    ) -> Arithmetic {
        let allowed = |arithmetic: &&Arithmetic| match arithmetic {
            Arithmetic::F32 => true,
            Arithmetic::Int8 => !exact && !self.options.avoid_int8,
            Arithmetic::F16 => !exact && self.f16,
            Arithmetic::Cooperative => !exact && self.cooperative,
        };
        kernel.arithmetics(weights).iter().find(allowed).copied().unwrap_or(Arithmetic::F32)
    }

    /// A kernel, compiled when it is first asked for.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub(super) fn kernel(&self, variant: Variant) -> Result<Arc<CompiledKernel>, Error> {
        let mut kernels = lock(&self.kernels);
        if let Some(compiled) = kernels.get(&variant) {
            return Ok(compiled.clone());
        }
        let compiled = Arc::new(self.compile(variant)?);
        kernels.insert(variant, compiled.clone());
        Ok(compiled)
    }

    fn compile(&self, variant: Variant) -> Result<CompiledKernel, Error> {
        let name = variant.name();
        let source =
            kinglet_shaders::source(variant).map_err(|error| self.fault(error.to_string()))?;
        let metadata = kinglet_shaders::metadata(variant)
            .ok_or_else(|| self.fault(format!("nothing is known of {name}")))?;
        let device = &self.device;
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let entries: Vec<_> = (0..)
            .zip(metadata.bindings)
            .map(|(number, binding)| wgpu::BindGroupLayoutEntry {
                binding: number,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match binding.kind {
                        BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
                        BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        BindingKind::ReadWrite => {
                            wgpu::BufferBindingType::Storage { read_only: false }
                        }
                    },
                    has_dynamic_offset: binding.name == "step",
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let create = || {
            let module = if self.options.checked {
                device.create_shader_module(descriptor)
            } else {
                super::trusted::shader_module(device, descriptor)
            };
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(&name),
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                // Every kernel writes its workgroup memory before it reads it.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            (layout, pipeline)
        };
        let ((layout, pipeline), error) = self.caught(wgpu::ErrorFilter::Validation, create);
        if let Some(error) = error {
            return Err(self.fault(format!("the kernel {name} was refused: {error}")));
        }
        self.check()?;
        Ok(CompiledKernel { name, pipeline, layout, metadata })
    }

    /// Waits for a submission, or for all.
    ///
    /// # Errors
    /// When the device is lost or doesn't answer.
    pub(super) fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), Error> {
        let wait = wgpu::PollType::Wait { submission_index: submission, timeout: Some(TIMEOUT) };
        match self.device.poll(wait) {
            Ok(_) => self.check(),
            Err(_) => {
                self.check()?;
                let (adapter, seconds) = (self.info.name.clone(), TIMEOUT.as_secs());
                Err(Error::DeviceTimeout { adapter, seconds })
            }
        }
    }
}
