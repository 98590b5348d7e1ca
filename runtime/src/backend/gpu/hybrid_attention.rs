//! `hybrid_attention` on a GPU: six launches for any number of tokens.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::{Builder, Vectors};
use super::params::ABSENT;
use super::recording::{Extent, FEW, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Widest head that the kernel has memory for.
const MAX_DIM: usize = 512;
/// Most chosen keys that the kernel has memory for.
const MAX_TOP: usize = 1024;
/// Most levels of dilated keys, and of the hierarchy.
const MAX_LEVELS: usize = 31;
/// Runs that are computed together must not need places for means.
const _: () = assert!(FEW <= op::DIRECT);
/// Threads of the kernels that go element by element.
const THREADS: usize = 64;

pub(super) fn add(op: &op::HybridAttention, builder: &mut Builder<'_>) -> Result<(), Error> {
    let (layout, tiers, dim) = (op.layout(), &op.tiers, op.head_dim);
    for (what, needed, limit) in [
        ("the width of a head of hybrid attention", dim, MAX_DIM),
        ("global_top of hybrid attention", tiers.global_top, MAX_TOP),
        ("the number of dilated levels", layout.levels.len(), MAX_LEVELS),
        ("hierarchy_levels of hybrid attention", tiers.hierarchy_levels, MAX_LEVELS),
    ] {
        if needed > limit {
            let (needed, limit) = (needed as u64, limit as u64);
            return Err(Error::DeviceLimit { what: what.into(), needed, limit });
        }
    }
    let mut vectors = Vectors::default();
    builder.vector(&mut vectors, &op.linear_gate)?;
    let vectors = builder.vectors(&vectors)?;
    // Without scores, their binding holds the keys again.
    let scores = op.scores.unwrap_or(op.keys);
    let resources = [
        ("query_input", builder.buffer(op.queries.buffer)),
        ("key_input", builder.buffer(op.keys.buffer)),
        ("value_input", builder.buffer(op.values.buffer)),
        ("score_input", builder.buffer(scores.buffer)),
        ("vectors", vectors),
        ("state", Resource::State(op.state, 0)),
        ("work", Resource::Memory(builder.memory.scratch.tokens)),
        ("output", builder.buffer(op.output)),
    ];
    let mean_levels = op.mean_levels();
    let [chosen, means, _] = op.passed(builder.chunk, op.places(builder.chunk));
    let mut form = |kernel: Kernel, groups: [Extent; 2]| {
        builder.launch(
            kernel,
            WeightType::F32,
            |builder, params| {
                params
                    .set("heads", op.heads)
                    .set("kv_heads", op.kv_heads)
                    .set("dim", dim)
                    .set("query_start", op.queries.offset)
                    .set("query_stride", builder.width(op.queries.buffer))
                    .set("key_start", op.keys.offset)
                    .set("key_stride", builder.width(op.keys.buffer))
                    .set("value_start", op.values.offset)
                    .set("value_stride", builder.width(op.values.buffer))
                    .set("score_start", op.scores.map_or(ABSENT as usize, |s| s.offset))
                    .set("score_stride", builder.width(scores.buffer))
                    .set("output_stride", builder.width(op.output))
                    .set_f32("scale", op.scale)
                    .set_f32("eps", op.eps)
                    .set("zero", 0)
                    .set("window", tiers.window)
                    .set("full_until", tiers.full_until)
                    .set("dilated_until", tiers.dilated_until)
                    .set("linear_until", tiers.linear_until)
                    .set("levels", layout.levels.len())
                    .set("global_first", tiers.global_first)
                    .set("global_top", tiers.global_top)
                    .set("block", tiers.hierarchy_block)
                    .set("mean_levels", mean_levels)
                    .set("mean_width", tiers.hierarchy_width)
                    .set("ring", layout.ring)
                    .set("mean_ring", layout.mean_ring)
                    .set("first_row", layout.first)
                    .set("top_row", layout.top)
                    .set("mean_row", layout.means)
                    .set("open_row", layout.open)
                    .set("values", layout.values())
                    .set("scores", layout.scores())
                    .set("positions", layout.positions())
                    .set("seen", layout.seen())
                    .set("memory", layout.memory())
                    .set("head_state", layout.head_state())
                    .set("direct", op::DIRECT)
                    .set("chunk", builder.chunk)
                    .set("means", chosen)
                    .set("recalled", chosen + means);
            },
            &resources,
            groups,
            (Scope::Runs, When::Always),
        )
    };
    let (heads, tokens) = (Extent::Fixed(op.kv_heads), Extent::Tokens(1));
    let across = |elements: usize| Extent::Fixed(elements.div_ceil(THREADS));
    if tiers.global_top > 0 {
        form(Kernel::HybridChoose, [heads, Extent::Fixed(1)])?;
    }
    if mean_levels > 0 {
        form(Kernel::HybridFold, [heads, across(2 * dim + 1)])?;
    }
    form(Kernel::HybridRecall, [heads, across(dim + 1)])?;
    form(Kernel::HybridAttend, [heads, tokens])?;
    form(Kernel::HybridMove, [heads, tokens])?;
    form(Kernel::HybridAppend, [heads, tokens])
}
