//! What graphics APIs share: everything about running a [`Plan`](crate::plan::Plan) on a GPU that names no API.
//!
//! A plan becomes a [`recording`]: a list of kernel launches as plain values, and the buffers that they use. `NAME.rs` turns the op `NAME` into
//! launches of the kernels of `shaders/src/NAME.wgsl`, with `builder`, `projection` and `grouped` for what several ops share. `layout` and
//! `weights` say how matrices lie in buffers, `memory` what a step needs besides.
//!
//! [`api`] is the trait that an API implements: allocate, write, copy, run a list of launches, read back. `program` is a recording made ready on
//! a device, [`executable`] runs its steps, `state`, `tensors` and `cache` keep what a sequence carries, `sample` and `ahead` choose tokens on the
//! device, and `self_test` compares a device with the processor before a model runs on it. `target` says what kernels may use on a device.
//!
//! Up to [`recording::FEW`] tokens are multiplied row by row, with everything around the product fused; more tokens go in tiles, after a launch
//! that prepares them.

pub(crate) mod adapter;
#[cfg(test)]
mod agreement;
mod ahead;
mod api;
mod attention;
mod bandwidth;
mod builder;
mod cache;
pub(crate) mod capabilities;
mod conv1d;
mod embed;
mod executable;
mod gated_linear;
mod grouped;
mod head;
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
mod program;
mod projection;
mod readback;
mod recording;
mod requirement;
mod sample;
mod self_test;
mod state;
mod target;
mod tensors;
mod weights;
pub(crate) mod wgpu;
