//! [`CompiledKernel`]: a kernel on a device, and [`Compiler`], which compiles many of them at once.
//!
//! The bindings of a kernel are known before the driver has compiled it, so launches are made ready, and weights uploaded, while threads compile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use kinglet_shaders::{BindingKind, Variant};

use super::super::api;
use super::super::target::lock;
use super::device::Device;
use crate::Error;

/// Most threads that compile.
const MOST_THREADS: usize = 8;

/// A kernel that can be bound, and launched when it is ready.
pub(crate) struct CompiledKernel {
    pub(super) variant: Variant,
    pub(super) name: String,
    pub(super) layout: wgpu::BindGroupLayout,
    /// The result of the driver, or why it refused.
    pipeline: OnceLock<Result<wgpu::ComputePipeline, String>>,
}

impl CompiledKernel {
    /// A kernel with the layout of its bindings, which is not compiled yet.
    ///
    /// # Errors
    /// When there is no such variant.
    pub(super) fn new(device: &Device, variant: Variant) -> Result<Self, Error> {
        let name = variant.name();
        let metadata = kinglet_shaders::metadata(variant)
            .ok_or_else(|| device.target.fault(format!("there is no kernel {name}")))?;
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
                    has_dynamic_offset: ["step", "runs"].contains(&binding.name),
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&name),
            entries: &entries,
        });
        Ok(Self { variant, name, layout, pipeline: OnceLock::new() })
    }

    /// Compiles it, or waits for the thread that does.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub(super) fn ready(&self, device: &Device) -> Result<&wgpu::ComputePipeline, Error> {
        let compiled = self.pipeline.get_or_init(|| self.compile(device));
        compiled.as_ref().map_err(|message| {
            device.target.fault(format!("the kernel {} was refused: {message}", self.name))
        })
    }

    /// The compiled kernel, once it is [`Self::ready`].
    pub(super) fn pipeline(&self) -> Option<&wgpu::ComputePipeline> {
        self.pipeline.get().and_then(|compiled| compiled.as_ref().ok())
    }

    /// Whether the driver has refused it.
    pub(super) fn was_refused(&self) -> bool {
        matches!(self.pipeline.get(), Some(Err(_)))
    }

    fn compile(&self, device: &Device) -> Result<wgpu::ComputePipeline, String> {
        let source = kinglet_shaders::source(self.variant).map_err(|error| error.to_string())?;
        #[cfg(feature = "testing")]
        let source = super::fault_injection::source(&self.name, source);
        let own = &device.device;
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&self.name),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        };
        let create = || {
            let module = if device.target.capabilities.unchecked {
                super::trusted::shader_module(own, descriptor)
            } else {
                own.create_shader_module(descriptor)
            };
            let layout = own.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&self.name),
                bind_group_layouts: &[Some(&self.layout)],
                immediate_size: 0,
            });
            own.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&self.name),
                layout: Some(&layout),
                module: &module,
                entry_point: Some("main"),
                // Every kernel writes its workgroup memory before it reads it.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: device.pipelines(),
            })
        };
        match device.caught(wgpu::ErrorFilter::Validation, create) {
            (_, Some(error)) => Err(error.to_string()),
            (pipeline, None) => Ok(pipeline),
        }
    }
}

/// Threads that compile kernels. Dropping it ends them, after the kernels that they have begun.
pub(crate) struct Compiler {
    device: Arc<Device>,
    work: Option<Sender<Arc<CompiledKernel>>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    requested: Vec<Arc<CompiledKernel>>,
}

impl Compiler {
    /// As many threads as the processor has cores. None where there are no threads: then [`api::Compiler::finish`] compiles.
    pub(super) fn new(device: &Arc<Device>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (work, received) = mpsc::channel::<Arc<CompiledKernel>>();
        let received = Arc::new(Mutex::new(received));
        let mut threads = Vec::new();
        let wanted = std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS));
        for _ in 0..if cfg!(target_family = "wasm") { 0 } else { wanted } {
            let (device, received, over) = (device.clone(), received.clone(), over.clone());
            let thread = std::thread::Builder::new().name("kinglet-compile".into());
            let spawned = thread.spawn(move || {
                loop {
                    let next = lock(&received).recv();
                    let Ok(kernel) = next else { return };
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // `finish` reports errors.
                    let _ = kernel.ready(&device);
                }
            });
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(_) => break,
            }
        }
        let (device, requested) = (device.clone(), Vec::new());
        Self { device, work: Some(work), over, threads, requested }
    }
}

impl api::Compiler for Compiler {
    fn request(&mut self, variant: Variant) -> Result<(), Error> {
        let kernel = self.device.kernel(variant)?;
        if kernel.pipeline.get().is_none()
            && let Some(work) = &self.work
        {
            // Without threads `finish` compiles it.
            let _ = work.send(kernel.clone());
        }
        self.requested.push(kernel);
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        for kernel in &self.requested {
            kernel.ready(&self.device)?;
        }
        self.device.keep_pipelines();
        Ok(())
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.work = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
