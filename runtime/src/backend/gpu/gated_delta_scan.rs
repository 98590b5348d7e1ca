//! `gated_delta_scan` on a GPU: one launch for few tokens, five for many.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Most channels of keys that the kernel for few tokens has room for. Wider heads go in chunks however few the tokens are.
pub(super) const MAX_KEYS: usize = 256;
/// Columns of a head's state in a workgroup.
pub(super) const COLUMNS: usize = 16;
/// Threads of the kernel that goes column by column.
const THREADS: usize = 256;
/// Tokens of a chunk, and columns of a tile of products.
pub(super) const SIDE: usize = 64;

pub(super) fn add(op: &op::GatedDeltaScan, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut vectors = Vectors::default();
    let a_log = builder.vector(&mut vectors, &op.a_log)?;
    let dt_bias = builder.vector(&mut vectors, &op.dt_bias)?;
    let vectors = builder.vectors(&vectors)?;
    let scratch = builder.memory.scratch;
    // Each kernel binds some of these.
    let resources = [
        ("qkv", builder.buffer(op.qkv)),
        ("decays", builder.buffer(op.decay.buffer)),
        ("betas", builder.buffer(op.beta.buffer)),
        ("vectors", vectors),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
        ("work", Resource::Memory(scratch.tokens)),
        ("scores", Resource::Memory(scratch.squares)),
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
                    .set("key_heads", op.key_heads)
                    .set("value_heads", op.value_heads)
                    .set("key_dim", op.key_dim)
                    .set("value_dim", op.value_dim)
                    .set("qkv_stride", builder.width(op.qkv))
                    .set("decay_offset", op.decay.offset)
                    .set("decay_stride", builder.width(op.decay.buffer))
                    .set("beta_offset", op.beta.offset)
                    .set("beta_stride", builder.width(op.beta.buffer))
                    .set("output_stride", builder.width(op.output))
                    .set("decays", op.decays())
                    .set_u32("a_log", a_log)
                    .set_u32("dt_bias", dt_bias)
                    .set_f32("beta_scale", op.beta_scale)
                    .set_f32("norm_eps", op.norm_eps);
            },
            &resources,
            groups,
            when,
        )
    };
    let (fixed, heads) = (Extent::Fixed, op.value_heads);
    let columns = op.value_dim.div_ceil(COLUMNS);
    let many = if op.key_dim > MAX_KEYS {
        When::Always
    } else {
        form(Kernel::DeltaStep, [fixed(heads), fixed(columns)], (Scope::Runs, When::Few))?;
        When::Many
    };
    let (prepare, scores) = match op.decays() {
        1 => (Kernel::DeltaPrepare, Kernel::DeltaScores),
        _ => (Kernel::DeltaPrepareChannels, Kernel::DeltaScoresChannels),
    };
    let solved = heads * (op.key_dim + op.value_dim).div_ceil(THREADS);
    let across = heads * op.value_dim.div_ceil(SIDE);
    for (kernel, groups) in [
        (prepare, [fixed(heads), Extent::Tiles(SIDE)]),
        (scores, [fixed(heads), Extent::Tiles(SIDE)]),
        (Kernel::DeltaSolve, [fixed(solved), Extent::Tiles(SIDE)]),
        (Kernel::DeltaPass, [fixed(heads), fixed(columns)]),
        (Kernel::DeltaOutputs, [fixed(across), Extent::Tiles(SIDE)]),
    ] {
        form(kernel, groups, (Scope::Run, many))?;
    }
    Ok(())
}
