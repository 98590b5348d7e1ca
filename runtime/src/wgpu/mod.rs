//! The wgpu backend: every op of a plan as WGSL kernels, on Vulkan, Metal and DX12.
//!
//! `wgpu/NAME.rs` turns the op `NAME` into dispatches of the kernels of `shaders/src/NAME.wgsl`. What they share:
//! [`adapter`] (which devices there are), [`capabilities`] (what of theirs is used), `device` (one that is open, with its kernels), `layout` and `upload` (weights),
//! `program` (ops as dispatches), `state` (a sequence's memory), `executable` (a step), `readback` (logits).
//!
//! All memory of a step is allocated when the plan is compiled. Matrices of up to [`program::FEW`] tokens are read row by
//! row with everything around them fused; more tokens go in tiles of 64 behind a dispatch that makes them ready.

pub(crate) mod adapter;
mod attention;
pub(crate) mod capabilities;
mod conv1d;
mod device;
mod embed;
mod executable;
mod gated_linear;
mod head;
mod layout;
mod linear;
mod mamba2_scan;
mod mamba_scan;
mod mlstm_scan;
mod moe_down;
mod moe_route;
mod moe_up;
mod params;
mod program;
mod readback;
mod state;
mod upload;

pub(crate) use executable::WgpuExecutable;
