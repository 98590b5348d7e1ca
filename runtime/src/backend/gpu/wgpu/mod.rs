//! The wgpu backend: every op of a plan as WGSL kernels, on Vulkan, Metal and DX12.
//!
//! `wgpu/NAME.rs` turns the op `NAME` into dispatches of the kernels of `shaders/src/NAME.wgsl`. What they share:
//! [`adapter`] (which devices there are), `device` (one that is open, with its kernels), `layout` and `upload` (weights),
//! `program` (ops as dispatches), `state`, `tensors` and `cache` (a sequence's memory), `executable` (a step), `readback` (logits), `trusted` (the only place with `unsafe`), `sample` and `ahead` (tokens that the
//! device chooses, and steps that begin with them).
//!
//! All memory of a step is allocated when the plan is compiled. Matrices of up to [`dispatch::FEW`] tokens are read row by
//! row with everything around them fused; more tokens go in tiles behind a dispatch that makes them ready.

pub(crate) mod adapter;
#[cfg(test)]
mod agreement;
mod ahead;
mod attention;
mod bandwidth;
mod builder;
mod cache;
pub(crate) mod capabilities;
mod conv1d;
mod device;
mod dispatch;
mod embed;
mod executable;
mod fault_injection;
mod gated_delta_scan;
mod gated_linear;
mod grouped;
mod head;
mod kernels;
mod layout;
mod linear;
mod mamba2_scan;
mod mamba_scan;
mod memory;
mod mlstm_scan;
mod moe_down;
mod moe_route;
mod moe_up;
mod params;
mod pipeline_cache;
mod profile;
mod program;
mod projection;
mod readback;
mod reliance;
mod sample;
mod scratch;
mod self_test;
mod state;
mod tensors;
mod trusted;
mod upload;

pub(crate) use executable::{OpenDevice, WgpuExecutable};
