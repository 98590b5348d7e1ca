//! Launches made ready, and their encoding into commands.

use std::sync::Arc;

use super::super::api::{self, Gpu, Launches, Region, StateBindings};
use super::super::recording::{Call, Launch, MOST_RUNS, Resource, STEP_BYTES, STEP_STRIDE};
use super::device::Device;
use super::kernels::CompiledKernel;
use super::timer::Timer;
use crate::Error;
use crate::plan::op::StateId;

const STEP_SIZE: Option<wgpu::BufferSize> = wgpu::BufferSize::new(STEP_BYTES as u64);
const RUNS_SIZE: Option<wgpu::BufferSize> = wgpu::BufferSize::new((MOST_RUNS * STEP_STRIDE) as u64);

/// A launch with its kernel and its parameters.
pub(crate) struct ReadyLaunch {
    kernel: Arc<CompiledKernel>,
    params: wgpu::Buffer,
    /// `None` where it works on a session's state.
    bind_group: Option<wgpu::BindGroup>,
}

impl ReadyLaunch {
    /// See [`Gpu::prepare`].
    pub(super) fn new(
        device: &Device,
        launch: &Launch,
        buffers: &[wgpu::Buffer],
        steps: &wgpu::Buffer,
    ) -> Result<Self, Error> {
        let kernel = device.kernel(launch.variant)?;
        let bytes = launch.params.len() as u64;
        let params = device.allocate("parameters", bytes, api::Usage::Uniform)?;
        device.queue.write_buffer(&params, 0, &launch.params);
        let mut ready = Self { kernel, params, bind_group: None };
        if launch.states().next().is_none() {
            ready.bind_group = Some(ready.bind(device, launch, buffers, steps, &|_, _| None)?);
        }
        Ok(ready)
    }

    /// See [`Gpu::bind`].
    pub(super) fn bind(
        &self,
        device: &Device,
        launch: &Launch,
        buffers: &[wgpu::Buffer],
        steps: &wgpu::Buffer,
        state: &dyn Fn(StateId, usize) -> Option<Region<wgpu::Buffer>>,
    ) -> Result<wgpu::BindGroup, Error> {
        let missing = || device.target.fault("a kernel is bound to memory that doesn't exist");
        let whole = |buffer: &wgpu::Buffer| Region::whole(buffer.clone());
        let mut regions = Vec::new();
        for binding in &launch.bindings {
            regions.push(match binding.resource {
                Resource::Params => whole(&self.params),
                Resource::Step | Resource::Runs => whole(steps),
                Resource::Memory(id) => whole(buffers.get(id.0).ok_or_else(missing)?),
                Resource::State(id, part) => state(id, part).ok_or_else(missing)?,
            });
        }
        let entries: Vec<_> = (0..)
            .zip(launch.bindings.iter().zip(&regions))
            .map(|(number, (binding, region))| {
                let size = match binding.resource {
                    Resource::Step => STEP_SIZE,
                    Resource::Runs => RUNS_SIZE,
                    Resource::Params | Resource::Memory(_) | Resource::State(..) => {
                        region.bytes.and_then(wgpu::BufferSize::new)
                    }
                };
                let (buffer, offset) = (&region.buffer, region.offset);
                let binding = wgpu::BufferBinding { buffer, offset, size };
                wgpu::BindGroupEntry {
                    binding: number,
                    resource: wgpu::BindingResource::Buffer(binding),
                }
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor {
            label: Some(&self.kernel.name),
            layout: &self.kernel.layout,
            entries: &entries,
        };
        let create = || device.device.create_bind_group(&descriptor);
        match device.caught(wgpu::ErrorFilter::Validation, create) {
            (_, Some(error)) => Err(device.target.fault(format!("{}: {error}", self.kernel.name))),
            (group, None) => Ok(group),
        }
    }

    fn encode(
        &self,
        call: &Call,
        sessions: &[StateBindings<'_, Device>],
        pass: &mut wgpu::ComputePass<'_>,
    ) {
        // Every kernel was compiled before a step.
        let Some(pipeline) = self.kernel.pipeline() else {
            debug_assert!(false, "{} is not ready", self.kernel.name);
            return;
        };
        let of_run = || sessions.get(call.run?)?.of(call.launch);
        let bind_group = self.bind_group.as_ref().or_else(of_run);
        let [x, y, z] = call.groups;
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bind_group, &[(call.step * STEP_STRIDE) as u32]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Commands in the making.
pub(crate) struct Commands {
    encoder: wgpu::CommandEncoder,
    queue: wgpu::Queue,
}

impl Commands {
    pub(super) fn new(device: &Device) -> Self {
        let encoder = device.device.create_command_encoder(&Default::default());
        Self { encoder, queue: device.queue.clone() }
    }
}

impl api::Commands<Device> for Commands {
    fn copy(&mut self, from: &wgpu::Buffer, at: u64, to: &wgpu::Buffer, to_at: u64, bytes: u64) {
        self.encoder.copy_buffer_to_buffer(from, at, to, to_at, Some(bytes));
    }

    fn clear(&mut self, buffer: &wgpu::Buffer) {
        self.encoder.clear_buffer(buffer, 0, None);
    }

    fn fetch(&mut self, from: &wgpu::Buffer, at: u64, to: &wgpu::Buffer, to_at: u64, bytes: u64) {
        self.copy(from, at, to, to_at, bytes);
    }

    fn launch(&mut self, launches: &Launches<'_, Device>, timer: Option<&mut Timer>) {
        let Launches { calls, ready, sessions } = launches;
        let ready = calls.iter().filter_map(|call| Some((call, ready.get(call.launch)?)));
        let Some(timer) = timer else {
            let mut pass = self.encoder.begin_compute_pass(&Default::default());
            ready.for_each(|(call, ready)| ready.encode(call, sessions, &mut pass));
            return;
        };
        for (call, ready) in ready {
            let mut pass = self.encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: timer.next(),
            });
            ready.encode(call, sessions, &mut pass);
        }
    }

    fn finish_timer(&mut self, timer: &Timer) {
        timer.resolve(&mut self.encoder);
    }

    fn submit(self) -> wgpu::SubmissionIndex {
        self.queue.submit([self.encoder.finish()])
    }
}
