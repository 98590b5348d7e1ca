//! `multi_level_attention` on a GPU: one launch appends to the cache, the next attends to it.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::{Builder, Vectors};
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Widest head that the kernel has memory for.
const MAX_DIM: usize = 512;
/// Most levels: a block of the last is as long as the part of the cache that a workgroup takes at once.
const MAX_LEVELS: usize = 8;

pub(super) fn add(op: &op::MultiLevelAttention, builder: &mut Builder<'_>) -> Result<(), Error> {
    let (dim, levels) = (op.head_dim, op.windows.len());
    for (what, needed, limit) in [
        ("the width of a head of multi-level attention", dim, MAX_DIM),
        ("the number of levels of multi-level attention", levels, MAX_LEVELS),
    ] {
        if needed > limit {
            let (needed, limit) = (needed as u64, limit as u64);
            return Err(Error::DeviceLimit { what: what.into(), needed, limit });
        }
    }
    if builder.state_type(op.cache) != WeightType::F32 {
        return Err(Error::Option {
            name: "cache_type",
            value: "quantized".into(),
            expected: "32 bits: no kernel reads quantized keys at several levels",
        });
    }
    let mut vectors = Vectors::default();
    let mut shares = builder.weights.vector(&op.level_logits)?;
    for shares in shares.chunks_mut(levels.max(1)) {
        let largest = shares.iter().copied().fold(f32::MIN, f32::max);
        shares.iter_mut().for_each(|share| *share = (*share - largest).exp());
        let total: f32 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= total);
    }
    let shares = vectors.push(&shares);
    let words = op.windows.iter().flat_map(|window| {
        let window = window.and_then(|window| u32::try_from(window).ok()).unwrap_or(u32::MAX);
        [(window >> 16) as f32, (window & 0xffff) as f32]
    });
    let windows = vectors.push(&words.collect::<Vec<_>>());
    let vectors = builder.vectors(&vectors)?;
    let resources = [
        ("query_input", builder.buffer(op.queries.buffer)),
        ("key_input", builder.buffer(op.keys.buffer)),
        ("value_input", builder.buffer(op.values.buffer)),
        ("vectors", vectors),
        ("keys", Resource::State(op.cache, 0)),
        ("values", Resource::State(op.cache, 1)),
        ("output", builder.buffer(op.output)),
    ];
    for kernel in [Kernel::MultiLevelStore, Kernel::MultiLevelAttend] {
        builder.launch(
            kernel,
            WeightType::F32,
            |builder, params| {
                params
                    .set("heads", op.heads)
                    .set("kv_heads", op.kv_heads)
                    .set("dim", dim)
                    .set("levels", levels)
                    .set("query_start", op.queries.offset)
                    .set("query_stride", builder.width(op.queries.buffer))
                    .set("key_start", op.keys.offset)
                    .set("key_stride", builder.width(op.keys.buffer))
                    .set("value_start", op.values.offset)
                    .set("value_stride", builder.width(op.values.buffer))
                    .set("output_stride", builder.width(op.output))
                    .set_f32("scale", op.scale)
                    .set_u32("shares", shares)
                    .set_u32("windows", windows);
            },
            &resources,
            [Extent::Fixed(op.kv_heads), Extent::Tokens(1)],
            (Scope::Run, When::Always),
        )?;
    }
    Ok(())
}
