//! The bandwidth of a device's memory: the rate at which a kernel copies.

use std::time::Instant;

use kinglet_shaders::{BindingKind, Kernel, WeightType};

use super::adapter::AdapterKind;
use super::api::{Commands, Compiler, Gpu, Launches, Usage};
use super::params::Params;
use super::recording::{
    Access, AllocationId, Binding, Call, Extent, Launch, Resource, STEP_STRIDE, Scope, When,
};
use crate::Error;

/// Bytes that a pass copies, up to the device's binding limit: more than any cache holds.
const BYTES: u64 = 1 << 30;
/// The same on a software adapter.
const SOFTWARE_BYTES: u64 = 64 << 20;
/// Passes that are measured together.
const PASSES: usize = 16;
/// Bytes that a workgroup copies: 256 threads, 16 elements each.
pub(super) const GROUP_BYTES: u64 = 256 * 16 * 16;

/// Bytes read and written per second.
///
/// # Errors
/// When there is no memory for it, or the device fails.
pub(super) fn measure<A: Gpu>(device: &std::sync::Arc<A>) -> Result<f64, Error> {
    let target = device.target();
    let software = target.info.kind == AdapterKind::Software;
    let (most, passes) = if software { (SOFTWARE_BYTES, 1) } else { (BYTES, PASSES) };
    let bytes = most.min(target.max_binding) / GROUP_BYTES * GROUP_BYTES;
    let variant = target.variant(Kernel::Copy, WeightType::F32, true);
    let metadata = kinglet_shaders::metadata(variant)
        .ok_or_else(|| target.fault("there is no kernel to measure memory with"))?;
    let mut params = Params::new(metadata.params, metadata.params_bytes);
    params.set("elements", (bytes / 16) as usize);
    let bindings = metadata.bindings.iter().map(|binding| Binding {
        name: binding.name,
        resource: match binding.name {
            "params" => Resource::Params,
            "step" => Resource::Step,
            "input" => Resource::Memory(AllocationId(1)),
            _ => Resource::Memory(AllocationId(2)),
        },
        access: match binding.kind {
            BindingKind::Uniform | BindingKind::Read => Access::Read,
            BindingKind::ReadWrite => Access::Write,
        },
    });
    let launch = Launch {
        variant,
        params: params.finish().map_err(|message| target.fault(message))?,
        bindings: bindings.collect(),
        extent: [Extent::Fixed((bytes / GROUP_BYTES) as usize), Extent::Fixed(1)],
        scope: Scope::Step,
        when: When::Always,
    };
    let mut compiler = device.compiler();
    compiler.request(variant)?;
    compiler.finish()?;
    let what = "memory to measure";
    let buffers = [
        device.allocate("steps", STEP_STRIDE as u64, Usage::Uniform)?,
        device.allocate(what, bytes, Usage::Storage)?,
        device.allocate(what, bytes, Usage::Storage)?,
    ];
    let ready = [device.prepare(&launch, &buffers, &buffers[0])?];
    let call = Call { launch: 0, run: None, step: 0, groups: launch.groups(1, 1) };
    let run = |passes: usize| {
        let mut commands = device.commands();
        let calls = vec![call; passes];
        commands.launch(&Launches { calls: &calls, ready: &ready, sessions: &[] }, None);
        let start = Instant::now();
        let submission = commands.submit();
        device.wait(Some(submission))?;
        Ok::<_, Error>(start.elapsed().as_secs_f64())
    };
    // The first pass makes the memory resident.
    run(1)?;
    let (one, all) = (run(1)?, run(passes + 1)?);
    // Both include what a submission costs by itself.
    let seconds = if all > one { (all - one) / passes as f64 } else { all / (passes + 1) as f64 };
    Ok(2.0 * bytes as f64 / seconds)
}
