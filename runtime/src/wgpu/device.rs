//! [`Device`]: an opened adapter with its queue, its kernels and its health. All models of a process on the same
//! adapter share one, so that kernels are compiled once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kinglet_shaders::{BindingKind, Kernel, Metadata, Reduction, Variant, WeightType};

use super::adapter::{self, AdapterInfo};
use super::capabilities::Capabilities;
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
    /// A bound on the size of what kernels see, below the adapter's own.
    pub max_binding: Option<u64>,
}

/// An opened adapter.
pub(super) struct Device {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: AdapterInfo,
    /// What kernels may use.
    pub capabilities: Capabilities,
    pub reduction: Reduction,
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
        let mut open = lock(&OPEN);
        open.retain(|device| device.strong_count() > 0);
        let sound = |device: &Arc<Self>| device.options == options && device.check().is_ok();
        if let Some(device) = open.iter().filter_map(Weak::upgrade).find(sound) {
            return Ok(device);
        }
        let device = Arc::new(pollster::block_on(Self::open(options))?);
        open.push(Arc::downgrade(&device));
        Ok(device)
    }

    async fn open(options: DeviceOptions) -> Result<Self, Error> {
        let choice = adapter::choose(options.adapter).await?;
        let info = choice.info;
        let mut capabilities = info.used()?;
        capabilities.subgroups &= !options.avoid_subgroups;
        let reduction = match capabilities.subgroups {
            true => Reduction::Subgroup,
            false => Reduction::Workgroup,
        };
        // What WebGPU promises everywhere, but large buffers where there are some.
        let mut limits = wgpu::Limits::default();
        limits.max_buffer_size = info.max_buffer.max(limits.max_buffer_size);
        limits.max_storage_buffer_binding_size =
            info.max_binding.max(limits.max_storage_buffer_binding_size);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("kinglet"),
            required_features: capabilities.features(),
            experimental_features: capabilities.experimental(),
            required_limits: limits.clone(),
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
        Ok(Self {
            device,
            queue,
            capabilities,
            reduction,
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
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage,
            mapped_at_creation: false,
        });
        match pollster::block_on(memory.pop()) {
            Some(_) => Err(Error::DeviceMemory { what, bytes: size }),
            None => self.check().map(|()| buffer),
        }
    }

    /// A kernel, compiled when it is first asked for.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub(super) fn kernel(
        &self,
        kernel: Kernel,
        weights: WeightType,
    ) -> Result<Arc<CompiledKernel>, Error> {
        let variant = Variant::new(kernel, weights, self.reduction);
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
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
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
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(self.fault(format!("the kernel {name} was refused: {error}")));
        }
        self.check()?;
        Ok(CompiledKernel { name, pipeline, layout, metadata })
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
