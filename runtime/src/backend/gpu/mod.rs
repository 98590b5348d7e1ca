//! What graphics APIs share: everything about running a [`Plan`](crate::plan::Plan) on a GPU that names no API.
//!
//! A plan becomes a [`recording`]: a list of kernel launches as plain values, and the buffers that they use. `NAME.rs` turns the op `NAME` into
//! launches of the kernels of `shaders/src/NAME.wgsl`, with `builder`, `projection` and `grouped` for what several ops share. `layout` and
//! `weights` say how matrices lie in buffers, `memory` what a step needs besides.
//!
//! [`api`] is the trait that an API implements: allocate, write, copy, run a list of launches, read back. `program` is a recording made ready on
//! a device, [`executable`] runs its steps, `state`, `pools`, `tensors` and `cache` keep what a sequence carries, `sample` and `ahead` choose tokens on the
//! device, and `self_test` compares a device with the processor before a model runs on it. `target` says what kernels may use on a device.
//!
//! Up to [`recording::FEW`] tokens are multiplied row by row, with everything around the product fused; more tokens go in tiles, after a launch
//! that prepares them.
//!
//! # How it works
//!
//! - **shaders/**: `shaders/src/NAME.wgsl` is an op, `shaders/src/parts/` is shared: weight formats, reductions, prologues of projections, the two forms of a matrix
//!   product. A file's header declares its kernels and their variants (`//# kernel`); `shaders/src/compose.rs` composes a variant (`//# use`, `//# when`,
//!   `//# unless`). `shaders/generate.sh` parses and validates all of them with naga, checks them against WebGPU's default limits, and writes their bindings and
//!   parameters to `shaders/src/generated/`. The crate doesn't compile while that is stale. The runtime sets bindings and parameters by name: a wrong or missing
//!   name is an error, not a wrong number.
//! - **wgpu/adapter.rs**: on Linux, Vulkan is opened without its window extensions (`wgpu/trusted.rs`): with them, libraries below connect to a desktop, and complain on
//!   standard error if there is none. DX12 is offered only if `dxcompiler.dll` is found: FXC, which Windows ships, took 30 to 120 s for one kernel, and took loops
//!   with barriers in others for a data race. Built-in values of subgroups are parameters of `main`, not members of a struct, for which naga writes HLSL that DXC
//!   rejects (`parts/main_subgroup.wgsl`, `shaders/tests/translated.rs`). Mesa's software adapter silently leaves loops after 65535 iterations of a thread, so
//!   steps are kept short there.
//! - **wgpu/device.rs**: one device per adapter and process, with its kernels. Errors of the driver are stored and returned by the next call. In the browser they
//!   arrive later (`Device::caught`), and kernels are compiled one after the other.
//! - **layout.rs, weights.rs**: matrices that one kernel reads together share a buffer, codes first, then scales. What exceeds a binding is split into pieces of whole
//!   rows or experts. Quantized weights stay packed. Matrices that should be read together but are stored differently are decoded to f32.
//! - **builder.rs, projection.rs, memory.rs, recording/**: ops as launches in plain values, made without a device. For up to 4 tokens, rows of weights are multiplied with everything around them fused
//!   (tests check the number of launches of a decode step), quantized ones with 8-bit activations by integer products of packed codes
//!   (`parts/rows_int8.wgsl`). More tokens are prepared by one launch and multiplied in tiles: 64 rows by 64 tokens, 32 by 16 for up to 32 tokens; with
//!   cooperative matrices 128 by 128 and 128 by 32.
//! - **Accuracy**: f16 tiles divide tokens by a power of two near their largest element, so that nothing overflows, and sum products in f32 (without cooperative
//!   matrices: in f16 over 32 columns, then in f32). One op is within 1e-2 of the exact result, typically 1e-3. With `Activations::F32`, and for f32 weights,
//!   tiles are exact.
//! - **grouped.rs**: experts for many tokens. `moe_group` sorts tokens by expert on the device and cuts each expert's list into tiles. As many workgroups are
//!   launched as there can be tiles; those past the last return at once. Each expert's contribution to a token is written separately and summed in order.
//! - **Scans and attention** have two forms, chosen by the length of a run. Few tokens: one launch steps through the recurrence, and its workgroups split a head's
//!   state by columns (an mLSTM head's norm and gate are left to the next projection, and n and m are double-buffered, since all workgroups of a head read
//!   them); attention covers pieces of the cache that a second launch combines. Many tokens: chunks of 64 as products of tiles, with the state before each
//!   chunk computed in between; attention by tiles of 64 queries and keys. Launches of an op pass data to each other in scratch memory (`op::Scratch`).
//! - **state.rs**: caches of sessions are separate buffers, so launches on them are recorded per run, and those on no state once per step. A convolution's state that
//!   several workgroups read is double-buffered: a step writes the half that it does not read.
//! - **pools.rs, tensors.rs**: recurrent tensors of sessions that are stepped together lie in one set of buffers, slot after slot, so that a launch for few tokens
//!   takes all of their runs: a kernel adds the beginning of a run's slot to its indices (`parts/runs.wgsl`). A session alone has buffers of one slot. Its snapshots
//!   share the slot; the first of them to step leaves a copy to the others and keeps the slot.
//! - **cache.rs**: keys and values are shared as a whole. The state that holds the most positions appends in place; any other state copies the cache first. With an
//!   attention window, sinks keep their positions, and the others are a ring. Quantized caches have kernel variants, as weight types do.
//! - **Vectors** (`Session::feed_embeddings`): they are written where `embed` would write, and `embed` is skipped.
//! - **sample.rs, shaders/src/sample.wgsl**: greedy, temperature, top-k, top-p and min-p on the device, with the sampler's own random numbers. To accumulate
//!   probabilities by rank, logits are counted by their distance from the largest. This gives a bound, and only what is above it, up to 1024 tokens, is sorted.
//!   More candidates, invalid logits, penalties, biases, DRY, typical-p and XTC are left to the host.
//! - **ahead.rs**: a step ends by writing the token it chose where the next step begins, so that a few steps (4; `GenerateOptions`) are in flight while the host reads
//!   earlier tokens. `session/generation.rs`, which knows no device, undoes what is past the end of an answer: a snapshot at every 16th step, and the tokens
//!   since then computed again. The result is bit for bit that of single steps.
//! - **executable.rs, program.rs**: a step writes tokens and positions, records, submits, and waits only if logits are wanted. Rotation tables come from the host: a
//!   device's `sin` is not accurate far from 0.
//! - **capabilities.rs**: what an adapter supports beyond WebGPU's core. Each capability has a fallback;
//!   `KINGLET_WGPU_WITHOUT=subgroups,f16,cooperative_matrices,dot_int8,unchecked` disables them. `unchecked` means kernels without the checks that wgpu adds.
//! - **wgpu/kernels.rs**: bindings are known before a kernel is compiled, so threads compile while the plan becomes launches and weights are uploaded. The driver's
//!   compiled kernels are cached in `ModelOptions::cache_dir`.
//! - **self_test/**: before a model runs, a small version of each of its kinds of layer, with weights stored as the model's are, is compared with the CPU in every form,
//!   and tokens are chosen. If something fails, the cause is searched (`requirement.rs`: an op's kernels, for weights of a type, depend on subgroups, f16, ...), and
//!   kernels avoid it; if nothing helps, the device is refused. The result is stored per adapter and driver. `wgpu/fault_injection.rs` breaks kernels on purpose, for
//!   tests.
//! - **wgpu/timer.rs**: time stamps around every launch (`kinglet bench --profile`). **bandwidth.rs** measures the memory's bandwidth.

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
mod concat;
mod conv1d;
mod embed;
mod executable;
mod expert_norm;
mod gated_delta_scan;
mod gated_linear;
mod grouped;
mod head;
mod head_linear;
mod head_norm;
mod hybrid_attention;
mod kernel_attention;
mod layout;
mod linear;
mod linear_attention;
mod mamba2_scan;
mod mamba_scan;
mod memory;
mod mlstm_scan;
mod moe_down;
mod moe_route;
mod moe_up;
mod multi_level_attention;
mod params;
mod pools;
mod positions;
mod program;
mod projection;
mod readback;
mod recording;
mod requirement;
mod residual_norm;
mod sample;
mod self_test;
mod slstm_scan;
mod state;
mod target;
mod tensors;
mod weights;
pub(crate) mod wgpu;
