//! What wgpu calls unsafe because it depends on the kernels: these are this project's own, and were validated when it was built.
//! And Vulkan opened without what belongs to windows.
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

/// Vulkan without the extensions that show images in windows of Wayland or X11; `None` where there is no Vulkan.
///
/// wgpu asks for these extensions wherever there are any. With that of Wayland, Mesa's layer that chooses among devices connects to the
/// compositor, and libwayland complains on standard error where there is none: over ssh, in a container. A library is silent.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
pub(super) fn headless_vulkan() -> Option<wgpu::Instance> {
    use wgpu::hal::api::Vulkan;
    use wgpu::hal::vulkan;

    let flags = wgpu::InstanceFlags::empty();
    let descriptor = wgpu::hal::InstanceDescriptor {
        name: "kinglet",
        flags,
        memory_budget_thresholds: wgpu::MemoryBudgetThresholds::default(),
        backend_options: wgpu::BackendOptions::default(),
        telemetry: None,
        display: None,
    };
    let without_windows = |arguments: vulkan::CreateInstanceCallbackArgs<'_, '_, '_>| {
        let windows = [c"VK_KHR_wayland_surface", c"VK_KHR_xcb_surface", c"VK_KHR_xlib_surface"];
        arguments.extensions.retain(|name| !windows.contains(name));
    };
    // SAFETY: The callback must not remove features, since wgpu relies on them. These three it looks up in the list that the callback
    // leaves, and only to make a surface of a window, which never happens here. VK_KHR_surface stays: VK_KHR_swapchain, which
    // devices are opened with, needs it.
    let opened = unsafe {
        vulkan::Instance::init_with_callback(&descriptor, Some(Box::new(without_windows)))
    };
    let instance = match opened {
        Ok(instance) => instance,
        Err(error) => {
            log::debug!("Vulkan can't be opened: {error}");
            return None;
        }
    };
    // SAFETY: The instance is Vulkan's own, just made, and handed over.
    let mut global =
        unsafe { wgpu::wgc::global::Global::from_hal_instance::<Vulkan>("kinglet", instance) };
    let mut none = wgpu::InstanceDescriptor::new_without_display_handle();
    none.backends = wgpu::Backends::empty();
    let none = wgpu::wgc::instance::Instance::new("kinglet", none, None);
    let mut core = std::mem::replace(&mut global.instance, none);
    // Those of `wgpu::Instance::from_hal` bound buffers to 4 GiB, and validate in debug builds.
    core.flags = flags;
    // SAFETY: As above: the same instance.
    Some(unsafe { wgpu::Instance::from_core(core) })
}
