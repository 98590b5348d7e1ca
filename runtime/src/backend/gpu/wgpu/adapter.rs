//! Which adapters there are, what each can do, and which is taken.

use std::fmt;
use std::sync::OnceLock;

use super::capabilities::Capabilities;
use crate::Error;

/// What kind of device an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterKind {
    /// A graphics card.
    Discrete,
    /// Part of the processor.
    Integrated,
    /// A device of a virtual machine.
    Virtual,
    /// The processor playing a device: right, but slower than the CPU backend.
    Software,
    /// The driver doesn't say.
    Other,
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Software => "software",
            Self::Other => "other",
        })
    }
}

/// An adapter, what it can do, and what of that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterInfo {
    /// Its number: what [`ModelOptions::adapter`](crate::ModelOptions::adapter) takes.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: AdapterKind,
    /// `vulkan`, `metal`, `dx12`, ...
    pub api: String,
    /// Driver and version.
    pub driver: String,
    /// Smallest and largest subgroup, where it has them.
    pub subgroups: Option<(u32, u32)>,
    /// What it can do beyond WebGPU's core.
    pub capabilities: Capabilities,
    /// Largest buffer that a kernel can see, in bytes.
    pub max_binding: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Why it can't be used, if so.
    pub unusable: Option<String>,
}

impl AdapterInfo {
    /// Whether the `auto` backend may take it: never one that is played by the processor.
    pub fn is_hardware(&self) -> bool {
        matches!(self.kind, AdapterKind::Discrete | AdapterKind::Integrated)
            && self.unusable.is_none()
    }
}

/// `0: NAME (discrete, vulkan)`, and why it can't be used, if so.
impl fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}, {})", self.index, self.name, self.kind, self.api)?;
        match &self.unusable {
            Some(reason) => write!(f, ", not usable: {reason}"),
            None => Ok(()),
        }
    }
}

/// All adapters, in an order that stays the same as long as hardware and drivers do.
pub async fn adapters() -> Vec<AdapterInfo> {
    let found = found(&instance()).await;
    found.iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

/// The adapter that the `auto` backend takes, if there is one: a discrete one before one that is part of the processor. Looked for
/// once in a process.
pub(crate) fn hardware() -> Option<usize> {
    static FOUND: OnceLock<Option<usize>> = OnceLock::new();
    *FOUND.get_or_init(|| best_hardware(&pollster::block_on(adapters())))
}

fn best_hardware(adapters: &[AdapterInfo]) -> Option<usize> {
    let usable = adapters.iter().filter(|adapter| adapter.is_hardware());
    usable.min_by_key(|adapter| adapter.kind != AdapterKind::Discrete).map(|adapter| adapter.index)
}

/// An adapter for [`Device`](super::device::Device), with what is known of it.
pub(super) struct Choice {
    pub adapter: wgpu::Adapter,
    pub info: AdapterInfo,
}

/// The adapter `index`, or else the best one: discrete before integrated before virtual, software last.
///
/// # Errors
/// When there is no such adapter, or it can't be used.
pub(super) async fn choose(index: Option<usize>) -> Result<Choice, Error> {
    let adapters = found(&instance()).await;
    let described = adapters.into_iter().enumerate();
    let mut all: Vec<Choice> = described
        .map(|(index, adapter)| Choice { info: describe(index, &adapter), adapter })
        .collect();
    let rank = |choice: &Choice| match choice.info.kind {
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
            found: all.iter().map(|choice| choice.info.to_string()).collect(),
        }),
    }
}

/// Where windows are made by Wayland or X11: Vulkan is opened without them there.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn instance() -> wgpu::Instance {
    let mut none = wgpu::InstanceDescriptor::new_without_display_handle();
    none.backends = wgpu::Backends::empty();
    none.flags = wgpu::InstanceFlags::empty();
    super::trusted::headless_vulkan().unwrap_or_else(|| wgpu::Instance::new(none))
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    descriptor.flags = wgpu::InstanceFlags::empty();
    // DX12 only where Microsoft's DXC is: its predecessor, which every Windows has, takes minutes for one kernel and refuses the next.
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
        capabilities: Capabilities::found(adapter),
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        unusable: unusable(adapter, &limits),
    }
}

/// Workgroup memory that kernels with cooperative matrices ask for.
pub(super) const COOPERATIVE_WORKGROUP_BYTES: u32 = 32 << 10;

/// Kernels keep to the limits that every WebGPU device has; some older hardware is below them.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, kind: AdapterKind, unusable: Option<&str>) -> AdapterInfo {
        AdapterInfo {
            index,
            name: "adapter".into(),
            kind,
            api: "vulkan".into(),
            driver: "driver".into(),
            subgroups: None,
            capabilities: Capabilities::default(),
            max_binding: 1 << 27,
            max_buffer: 1 << 28,
            unusable: unusable.map(Into::into),
        }
    }

    #[test]
    fn auto_takes_a_discrete_adapter_then_an_integrated_one_and_no_other() {
        let software = adapter(0, AdapterKind::Software, None);
        let virtual_one = adapter(1, AdapterKind::Virtual, None);
        let integrated = adapter(2, AdapterKind::Integrated, None);
        let broken = adapter(3, AdapterKind::Discrete, Some("too old"));
        let discrete = adapter(4, AdapterKind::Discrete, None);
        let mut all = vec![software, virtual_one];
        assert_eq!(best_hardware(&all), None);
        all.extend([integrated, broken]);
        assert_eq!(best_hardware(&all), Some(2));
        all.push(discrete);
        assert_eq!(best_hardware(&all), Some(4));
    }
}
