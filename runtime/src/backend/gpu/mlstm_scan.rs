//! `mlstm_scan` on a GPU: one dispatch for few tokens, five for many. For few tokens the norm and the gate of the heads are left to the projection
//! that follows, where the plan allows it.

use kinglet_models::ForgetGate;
use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::params::ABSENT;
use super::projection;
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Most elements of a value that the kernels' threads have registers for.
pub(super) const MAX_VALUE: usize = 2048;
/// Columns of a head's memory that a workgroup takes for few tokens.
pub(super) const COLUMNS: usize = 16;
/// Threads of the kernel that goes element by element.
pub(super) const THREADS: usize = 256;
/// Rows and columns of a tile of products.
pub(super) const SIDE: usize = 64;

pub(super) fn add(op: &op::MLstmScan, builder: &mut Builder<'_>) -> Result<(), Error> {
    if op.v_head_dim > MAX_VALUE {
        let (needed, limit) = (op.v_head_dim as u64, MAX_VALUE as u64);
        return Err(Error::DeviceLimit { what: "mLSTM's width of values".into(), needed, limit });
    }
    let mut vectors = Vectors::default();
    let (norm_weight, norm_bias) = match &op.head_norm {
        Some(norm) => builder.norm_vectors(&mut vectors, norm)?,
        None => (ABSENT, ABSENT),
    };
    // Bound, but not read without one.
    let stream = op.stream_gate.map_or(op.input, |gate| gate.buffer);
    let vectors = builder.vectors(&vectors)?;
    let deferred = op.defers_norm && op.heads <= projection::MAX_HEADS;
    if deferred {
        builder.deferred_norms.insert(op.output, op.clone());
    }
    let scratch = builder.memory.scratch;
    // Each kernel binds some of these.
    let resources = [
        ("input", builder.buffer(op.input)),
        ("vectors", vectors),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
        ("stream", builder.buffer(stream)),
        ("scores", Resource::Memory(scratch.squares)),
        ("added", Resource::Memory(scratch.states)),
        ("states", Resource::Memory(scratch.states)),
        ("numbers", Resource::Memory(scratch.chunks)),
    ];
    let mut form = |kernel: Kernel, groups: [Extent; 2], when: (Scope, When)| {
        let stored = builder.state_type(op.state);
        builder.launch(
            kernel,
            stored,
            |builder, params| {
                params
                    .set("heads", op.heads)
                    .set("qk_head_dim", op.qk_head_dim)
                    .set("v_head_dim", op.v_head_dim)
                    .set("input_stride", builder.width(op.input))
                    .set("output_stride", builder.width(op.output))
                    .set_u32("norm_weight", norm_weight)
                    .set_u32("norm_bias", norm_bias)
                    .set_f32("gate_soft_cap", op.gate_soft_cap.unwrap_or(0.0))
                    .set_f32("eps", op.eps)
                    .set_f32("norm_eps", op.head_norm.as_ref().map_or(1.0, |norm| norm.eps))
                    .set("centred", usize::from(op.centred))
                    .set(
                        "exponential_forget",
                        usize::from(op.forget_gate == ForgetGate::Exponential),
                    )
                    .set("stream_gate", op.stream_gate.map_or(ABSENT as usize, |gate| gate.offset))
                    .set("stream_stride", builder.width(stream));
            },
            &resources,
            groups,
            when,
        )
    };
    let fixed = Extent::Fixed;
    let step = [fixed(op.heads), fixed(op.v_head_dim.div_ceil(COLUMNS))];
    form(Kernel::MLstmStep, step, (Scope::Runs, When::Few))?;
    let (down, across) = (op.qk_head_dim.div_ceil(SIDE), op.v_head_dim.div_ceil(SIDE));
    for (kernel, groups) in [
        (Kernel::MLstmScores, [fixed(op.heads), Extent::Tiles(SIDE)]),
        (Kernel::MLstmStates, [fixed(op.heads * down * across), Extent::Tiles(SIDE)]),
        (Kernel::MLstmPass, [fixed(op.head_state().div_ceil(THREADS)), fixed(op.heads)]),
        (Kernel::MLstmOutputs, [fixed(op.heads * across), Extent::Tiles(SIDE)]),
    ] {
        form(kernel, groups, (Scope::Run, When::Many))?;
    }
    // All tokens of the step at once, whatever their runs: so does the projection that follows.
    let when = if deferred { When::Many } else { When::Always };
    form(Kernel::MLstmFinish, [fixed(op.heads), Extent::Tokens(1)], (Scope::Step, when))
}
