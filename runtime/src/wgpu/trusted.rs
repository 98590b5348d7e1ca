//! What wgpu calls unsafe because it depends on the kernels: these are this project's own, and were validated when it was built.
#![allow(unsafe_code)]

/// A kernel without the checks of indices and loops that wgpu adds. They cost a quarter of the speed of a decode step.
pub(super) fn shader_module(
    device: &wgpu::Device,
    descriptor: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    let checks = wgpu::ShaderRuntimeChecks::unchecked();
    // SAFETY: Loops count up to sizes of the plan. Indices come from the workgroup's place and from parameters that the program
    // builder has set from the plan, whose sizes all buffers have; from token ids, which are below the vocabulary's size before a
    // step begins, or which a kernel chose that counts them; and from numbers of experts, which a kernel wrote that counts them.
    // Buffers are bounded by the driver besides, where it can.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}

/// The token that lets a device have cooperative matrices.
pub(super) fn experimental_features() -> wgpu::ExperimentalFeatures {
    // SAFETY: Cooperative matrices may have bugs in wgpu that lead to undefined behavior. Only kernels of our own are run on this
    // device; each loads and stores matrices that lie within its workgroup memory, from all threads of whole subgroups.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// A driver's cache of compiled kernels, filled with what an earlier one has written.
pub(super) fn pipeline_cache(device: &wgpu::Device, data: Option<&[u8]>) -> wgpu::PipelineCache {
    let label = Some("kinglet");
    let descriptor = wgpu::PipelineCacheDescriptor { label, data, fallback: true };
    // SAFETY: The data is what `PipelineCache::get_data` gave an earlier process, which wrote it to a file of its own with a checksum;
    // that no other process forges both can't be proved, and a program's cache folder is no less its own than its executable. wgpu and
    // the driver check beside that it is of the same adapter and driver, and take an empty one if not.
    unsafe { device.create_pipeline_cache(&descriptor) }
}
