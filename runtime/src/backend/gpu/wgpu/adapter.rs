//! The adapters that wgpu finds, and the candidate of one.

use std::sync::OnceLock;

use super::super::adapter::{AdapterInfo, AdapterKind, best_hardware};
use super::capabilities;
use crate::Error;

/// All adapters. Their order changes only with hardware and drivers.
pub async fn adapters() -> Vec<AdapterInfo> {
    let found = found(&instance()).await;
    found.iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

/// The adapter that the `auto` backend takes, if there is one. Searched for once per process.
pub(crate) fn hardware() -> Option<usize> {
    static FOUND: OnceLock<Option<usize>> = OnceLock::new();
    *FOUND.get_or_init(|| best_hardware(&pollster::block_on(adapters())))
}

/// An adapter that [`Device`](super::device::Device) can open.
pub(super) struct Candidate {
    pub adapter: wgpu::Adapter,
    pub info: AdapterInfo,
}

/// The adapter `index`, or else the best one: discrete before integrated before virtual, software last.
///
/// # Errors
/// When there is no such adapter, or it can't be used.
pub(super) async fn choose(index: Option<usize>) -> Result<Candidate, Error> {
    let adapters = found(&instance()).await;
    let described = adapters.into_iter().enumerate();
    let mut all: Vec<Candidate> = described
        .map(|(index, adapter)| Candidate { info: describe(index, &adapter), adapter })
        .collect();
    let rank = |candidate: &Candidate| match candidate.info.kind {
        AdapterKind::Discrete => 0,
        AdapterKind::Integrated => 1,
        AdapterKind::Virtual => 2,
        AdapterKind::Other => 3,
        AdapterKind::Software => 4,
    };
    let mut usable = (0..all.len()).filter(|&i| all[i].info.unusable.is_none());
    let place = match index {
        Some(index) => usable.find(|&i| i == index),
        None => usable.min_by_key(|&i| rank(&all[i])),
    };
    match place {
        Some(place) => Ok(all.swap_remove(place)),
        None => Err(Error::NoAdapter {
            wanted: match index {
                Some(index) => format!("usable adapter {index}"),
                None => "usable adapter".into(),
            },
            found: all.iter().map(|candidate| candidate.info.to_string()).collect(),
        }),
    }
}

/// Makes a new instance, which finds adapters added since the last one. The first instance is kept for the life of the process. Dropping
/// the last one unloads the drivers, and NVIDIA's registers a destructor for each thread that used a device: a thread that ends after
/// the unload would call into unmapped memory.
#[cfg(not(target_family = "wasm"))]
fn instance() -> wgpu::Instance {
    static FIRST: OnceLock<wgpu::Instance> = OnceLock::new();
    let instance = new_instance();
    FIRST.get_or_init(|| instance.clone());
    instance
}

#[cfg(target_family = "wasm")]
use new_instance as instance;

/// Vulkan without its extensions for windows of Wayland and X11.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn new_instance() -> wgpu::Instance {
    let mut none = wgpu::InstanceDescriptor::new_without_display_handle();
    none.backends = wgpu::Backends::empty();
    none.flags = wgpu::InstanceFlags::empty();
    super::trusted::headless_vulkan().unwrap_or_else(|| wgpu::Instance::new(none))
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn new_instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    descriptor.flags = wgpu::InstanceFlags::empty();
    // DX12 needs Microsoft's DXC: its predecessor FXC takes minutes for one kernel and refuses others.
    descriptor.backend_options.dx12.shader_compiler =
        wgpu::Dx12Compiler::from_env().unwrap_or_else(wgpu::Dx12Compiler::default_dynamic_dxc);
    wgpu::Instance::new(descriptor)
}

async fn found(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    instance.enumerate_adapters(wgpu::Backends::PRIMARY).await
}

fn describe(index: usize, adapter: &wgpu::Adapter) -> AdapterInfo {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    AdapterInfo {
        index,
        name: info.name,
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
            wgpu::DeviceType::Other => AdapterKind::Other,
        },
        api: info.backend.to_str().into(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
        subgroups: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
        capabilities: capabilities::found(adapter),
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        unusable: unusable(adapter, &limits),
    }
}

/// Workgroup memory that kernels with cooperative matrices need.
pub(super) const COOPERATIVE_WORKGROUP_BYTES: u32 = 32 << 10;

/// Why an adapter can't be used: kernels need WebGPU's default limits, which some older hardware doesn't reach.
fn unusable(adapter: &wgpu::Adapter, limits: &wgpu::Limits) -> Option<String> {
    if !adapter.get_downlevel_capabilities().is_webgpu_compliant() {
        return Some("the driver lacks what WebGPU needs".into());
    }
    let needed = wgpu::Limits::default();
    let mut reason = None;
    let pairs = [
        (
            "storage buffers",
            limits.max_storage_buffers_per_shader_stage,
            needed.max_storage_buffers_per_shader_stage,
        ),
        (
            "threads of a workgroup",
            limits.max_compute_invocations_per_workgroup,
            needed.max_compute_invocations_per_workgroup,
        ),
        (
            "bytes of workgroup memory",
            limits.max_compute_workgroup_storage_size,
            needed.max_compute_workgroup_storage_size,
        ),
    ];
    for (what, has, needs) in pairs {
        if has < needs {
            reason = Some(format!("{has} {what}, where WebGPU asks for {needs}"));
        }
    }
    reason
}
