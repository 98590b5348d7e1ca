//! `linear_attention` on a GPU: one launch for few tokens, four for many.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::mamba2_scan::{COLUMNS, SIDE, THREADS};
use super::params::{ABSENT, activation};
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::LinearAttention, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut vectors = Vectors::default();
    let log_decays = vectors.push(&op.log_decays);
    let vectors = builder.vectors(&vectors)?;
    let scratch = builder.memory.scratch;
    // Each kernel binds some of these.
    let resources = [
        ("input", builder.buffer(op.input)),
        ("vectors", vectors),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
        ("scores", Resource::Memory(scratch.squares)),
        ("added", Resource::Memory(scratch.states)),
        ("states", Resource::Memory(scratch.states)),
    ];
    let (heads, key_dim, value_dim) = (op.heads(), op.key_dim, op.value_dim);
    let mut form = |kernel: Kernel, groups: [Extent; 2], when: (Scope, When)| {
        let stored = builder.state_type(op.state);
        builder.launch(
            kernel,
            stored,
            |builder, params| {
                params
                    .set("heads", heads)
                    .set("key_dim", key_dim)
                    .set("value_dim", value_dim)
                    .set("queries", op.queries.first)
                    .set("queries_stride", op.queries.stride)
                    .set("keys", op.keys.first)
                    .set("keys_stride", op.keys.stride)
                    .set("values", op.values.first)
                    .set("values_stride", op.values.stride)
                    .set("activation", op.activation.map_or(ABSENT as usize, activation))
                    .set_f32("scale", op.scale)
                    .set_u32("log_decays", log_decays)
                    .set("input_stride", builder.width(op.input))
                    .set("output_stride", builder.width(op.output));
            },
            &resources,
            groups,
            when,
        )
    };
    let step = match value_dim.is_multiple_of(4) {
        true => Kernel::LinearAttentionStep,
        false => Kernel::LinearAttentionStepAny,
    };
    let fixed = Extent::Fixed;
    let few = (Scope::Runs, When::Few);
    form(step, [fixed(heads), fixed(value_dim.div_ceil(COLUMNS))], few)?;
    let (down, across) = (key_dim.div_ceil(SIDE), value_dim.div_ceil(SIDE));
    let elements = (key_dim * value_dim).div_ceil(THREADS);
    for (kernel, groups) in [
        (Kernel::LinearAttentionScores, [fixed(heads), Extent::Tiles(SIDE)]),
        (Kernel::LinearAttentionStates, [fixed(heads * down * across), Extent::Tiles(SIDE)]),
        (Kernel::LinearAttentionPass, [fixed(elements), fixed(heads)]),
        (Kernel::LinearAttentionOutputs, [fixed(heads * across), Extent::Tiles(SIDE)]),
    ] {
        form(kernel, groups, (Scope::Run, When::Many))?;
    }
    Ok(())
}
