//! wgpu as a [`Gpu`](super::api::Gpu): Vulkan, Metal, DX12 and WebGPU. Nothing outside of this folder names wgpu.
//!
//! `adapter` and `capabilities` say which adapters there are and what they can do, `device` is one that is open, `kernels` and `pipeline_cache`
//! compile, `commands` encodes launches and copies, `readback` maps results, `timer` measures, `trusted` has all `unsafe` code. `fault_injection`
//! breaks kernels for tests.

mod adapter;
mod capabilities;
mod commands;
mod device;
#[cfg(feature = "testing")]
mod fault_injection;
mod kernels;
mod pipeline_cache;
mod readback;
mod timer;
mod trusted;

pub use adapter::adapters;
pub(crate) use adapter::hardware;

/// A plan on a wgpu device.
pub(crate) type WgpuExecutable = super::executable::GpuExecutable<device::Device>;
/// Keeps a wgpu device open.
pub(crate) type OpenDevice = super::executable::OpenDevice<device::Device>;
