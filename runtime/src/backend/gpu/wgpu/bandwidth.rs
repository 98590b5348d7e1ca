//! What a device's memory gives: the rate at which a kernel copies.

use std::sync::Arc;
use std::time::Instant;

use kinglet_shaders::{Kernel, WeightType};

use super::device::Device;
use super::dispatch::{Dispatch, Extent, Over, Resource, STEP_BYTES, When};
use super::params::Params;
use super::program::Recorder;
use crate::Error;

/// Bytes that a pass copies, if a kernel may see so many: more than any cache holds.
const BYTES: u64 = 1 << 30;
/// The same where the processor plays the device.
const SOFTWARE_BYTES: u64 = 64 << 20;
/// Passes that are measured together.
const PASSES: usize = 16;
/// Bytes that a workgroup copies: 256 threads, 16 elements each.
pub(super) const GROUP_BYTES: u64 = 256 * 16 * 16;

/// Bytes read and written per second.
///
/// # Errors
/// When there is no memory for it, or the device fails.
pub(super) fn measure(device: &Arc<Device>) -> Result<f64, Error> {
    let software = device.info.kind == super::adapter::AdapterKind::Software;
    let (most, passes) = if software { (SOFTWARE_BYTES, 1) } else { (BYTES, PASSES) };
    let bytes = most.min(device.max_binding) / GROUP_BYTES * GROUP_BYTES;
    let kernel = device.kernel(device.variant(Kernel::Copy, WeightType::F32, true))?;
    kernel.ready(device)?;
    let storage = wgpu::BufferUsages::STORAGE;
    let input = device.buffer("memory to measure", bytes, storage)?;
    let output = device.buffer("memory to measure", bytes, storage)?;
    let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let step = device.buffer("steps", STEP_BYTES, uniform)?;
    let mut values = Params::new(kernel.metadata.params, kernel.metadata.params_bytes);
    values.set("elements", (bytes / 16) as usize);
    let values = values.finish().map_err(|message| device.fault(message))?;
    let params = device.buffer("parameters", values.len() as u64, uniform)?;
    device.queue.write_buffer(&params, 0, &values);
    let resources = kernel.metadata.bindings.iter().map(|binding| match binding.name {
        "params" => params.clone(),
        "step" => step.clone(),
        "input" => input.clone(),
        _ => output.clone(),
    });
    let mut dispatch = Dispatch {
        resources: resources.map(Resource::Buffer).collect(),
        kernel,
        bind_group: None,
        groups: [Extent::Fixed((bytes / GROUP_BYTES) as usize), Extent::Fixed(1)],
        over: Over::Step,
        when: When::Always,
    };
    dispatch.bind_group = Some(dispatch.bind(device, |_, _| None)?);
    let run = |passes: usize| {
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let mut recorder = Recorder::new(&mut encoder, None);
        for _ in 0..passes {
            recorder.record(&dispatch, dispatch.bind_group.as_ref(), 0, 1);
        }
        drop(recorder);
        let start = Instant::now();
        let submission = device.queue.submit([encoder.finish()]);
        device.wait(Some(submission))?;
        Ok::<_, Error>(start.elapsed().as_secs_f64())
    };
    // The first pass brings the memory there.
    run(1)?;
    let (one, all) = (run(1)?, run(passes + 1)?);
    // What a submission costs by itself is in both.
    let seconds = if all > one { (all - one) / passes as f64 } else { all / (passes + 1) as f64 };
    Ok(2.0 * bytes as f64 / seconds)
}
