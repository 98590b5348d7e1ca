//! `kernel_attention` on a GPU: one launch for few tokens, four for many.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::Builder;
use super::mlstm_scan::{COLUMNS, SIDE, THREADS};
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Most query heads of a key/value head that the kernel for few tokens has memory for.
const MAX_GROUP: usize = 64;

pub(super) fn add(op: &op::KernelAttention, builder: &mut Builder<'_>) -> Result<(), Error> {
    let (heads, kv_heads) = (op.heads, op.kv_heads);
    let (key_dim, value_dim) = (op.head_dim, op.value_dim());
    if op.group() > MAX_GROUP {
        let (needed, limit) = (op.group() as u64, MAX_GROUP as u64);
        let what = "the number of query heads that share a head of linear attention".into();
        return Err(Error::DeviceLimit { what, needed, limit });
    }
    if op.queries.buffer != op.keys.buffer {
        return Err(builder
            .target
            .fault("queries and keys of kernel_attention lie in two buffers"));
    }
    let scratch = builder.memory.scratch;
    // Each kernel binds some of these.
    let resources = [
        ("input", builder.buffer(op.queries.buffer)),
        ("value_input", builder.buffer(op.values.buffer)),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
        ("scores", Resource::Memory(scratch.squares)),
        ("added", Resource::Memory(scratch.states)),
        ("states", Resource::Memory(scratch.states)),
    ];
    let mut form = |kernel: Kernel, groups: [Extent; 2], when: (Scope, When)| {
        builder.launch(
            kernel,
            WeightType::F32,
            |builder, params| {
                params
                    .set("heads", heads)
                    .set("kv_heads", kv_heads)
                    .set("key_dim", key_dim)
                    .set("value_dim", value_dim)
                    .set("queries", op.queries.offset)
                    .set("keys", op.keys.offset)
                    .set("values", op.values.offset)
                    .set("input_stride", builder.width(op.queries.buffer))
                    .set("value_stride", builder.width(op.values.buffer))
                    .set("output_stride", builder.width(op.output))
                    .set_f32("eps", op.eps)
                    .set("zero", 0);
            },
            &resources,
            groups,
            when,
        )
    };
    let fixed = Extent::Fixed;
    let step = [fixed(kv_heads), fixed(value_dim.div_ceil(COLUMNS))];
    form(Kernel::KernelAttentionStep, step, (Scope::Runs, When::Few))?;
    let (down, across) = (key_dim.div_ceil(SIDE), value_dim.div_ceil(SIDE));
    for (kernel, groups) in [
        (Kernel::KernelAttentionScores, [fixed(heads), Extent::Tiles(SIDE)]),
        (Kernel::KernelAttentionStates, [fixed(kv_heads * down * across), Extent::Tiles(SIDE)]),
        (Kernel::KernelAttentionPass, [fixed(op.sums().div_ceil(THREADS)), fixed(kv_heads)]),
        (Kernel::KernelAttentionOutputs, [fixed(heads * across), Extent::Tiles(SIDE)]),
    ] {
        form(kernel, groups, (Scope::Run, When::Many))?;
    }
    Ok(())
}
