//! `mamba2_scan` on a GPU: one launch for few tokens, five for many.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Columns of a head's state that a workgroup takes for few tokens.
pub(super) const COLUMNS: usize = 16;
/// Threads of the kernels that go element by element.
pub(super) const THREADS: usize = 256;
/// Rows and columns of a tile of products.
pub(super) const SIDE: usize = 64;

pub(super) fn add(op: &op::Mamba2Scan, builder: &mut Builder<'_>) -> Result<(), Error> {
    let (channels, kernel) = (op.conv.channels, op.conv.kernel);
    let mut vectors = Vectors::default();
    // Transposed to [kernel, channels]: neighbouring threads read neighbouring channels.
    let taps = builder.weights.vector(&op.conv.weight)?;
    let turned: Vec<f32> =
        (0..kernel).flat_map(|k| taps.iter().skip(k).step_by(kernel.max(1)).copied()).collect();
    let weight = vectors.push(&turned);
    let bias = builder.optional(&mut vectors, op.conv.bias.as_ref())?;
    let a_log = builder.vector(&mut vectors, &op.a_log)?;
    let d = builder.vector(&mut vectors, &op.d)?;
    let dt_bias = builder.vector(&mut vectors, &op.dt_bias)?;
    let vectors = builder.vectors(&vectors)?;
    let scratch = builder.memory.scratch;
    // Each kernel binds some of these.
    let resources = [
        ("input", builder.buffer(op.input)),
        ("vectors", vectors),
        ("conv_state", Resource::State(op.conv_state, 0)),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
        ("convolved", Resource::Memory(scratch.tokens)),
        ("scores", Resource::Memory(scratch.squares)),
        ("added", Resource::Memory(scratch.states)),
        ("states", Resource::Memory(scratch.states)),
        ("chunk_decays", Resource::Memory(scratch.chunks)),
    ];
    let mut form = |kernel: Kernel, groups: [Extent; 2], when: (Scope, When)| {
        let stored = builder.state_type(op.state);
        builder.launch(
            kernel,
            stored,
            |builder, params| {
                params
                    .set("heads", op.heads)
                    .set("head_dim", op.head_dim)
                    .set("groups", op.groups)
                    .set("state_dim", op.state_dim)
                    .set("channels", channels)
                    .set("kernel", op.conv.kernel)
                    .set("input_stride", builder.width(op.input))
                    .set("output_stride", builder.width(op.output))
                    .set_u32("weight", weight)
                    .set_u32("bias", bias)
                    .set_u32("a_log", a_log)
                    .set_u32("d", d)
                    .set_u32("dt_bias", dt_bias)
                    // WGSL has no infinity.
                    .set_f32("dt_low", op.dt_limit.0.clamp(f32::MIN, f32::MAX))
                    .set_f32("dt_high", op.dt_limit.1.clamp(f32::MIN, f32::MAX));
            },
            &resources,
            groups,
            when,
        )
    };
    let step =
        if op.head_dim.is_multiple_of(4) { Kernel::Mamba2Step } else { Kernel::Mamba2StepAny };
    let fixed = Extent::Fixed;
    form(step, [fixed(op.heads), fixed(op.head_dim.div_ceil(COLUMNS))], (Scope::Runs, When::Few))?;
    let (down, across) = (op.state_dim.div_ceil(SIDE), op.head_dim.div_ceil(SIDE));
    let elements = (op.state_dim * op.head_dim).div_ceil(THREADS);
    for (kernel, groups) in [
        (Kernel::Mamba2Convolve, [fixed(channels.div_ceil(THREADS)), Extent::Tokens(1)]),
        (Kernel::Mamba2Scores, [fixed(op.groups), Extent::Tiles(SIDE)]),
        (Kernel::Mamba2States, [fixed(op.heads * down * across), Extent::Tiles(SIDE)]),
        (Kernel::Mamba2Pass, [fixed(elements), fixed(op.heads)]),
        (Kernel::Mamba2Outputs, [fixed(op.heads * across), Extent::Tiles(SIDE)]),
    ] {
        form(kernel, groups, (Scope::Run, When::Many))?;
    }
    Ok(())
}
