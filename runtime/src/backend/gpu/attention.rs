//! `attention` on a GPU. Few tokens: one launch attends to pieces of the cache, the next merges the results. Many: one
//! launch prepares queries, keys and values, the next attends by tiles.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::{Builder, Vectors};
use super::memory::Angles;
use super::params::ABSENT;
use super::recording::{Extent, FEW, Resource, Scope, When};
use crate::Error;
use crate::plan::op::{self, AttentionValues};

/// Largest head that the kernel has memory for.
pub(super) const MAX_HEAD: usize = 1024;

pub(super) fn add(op: &op::Attention, builder: &mut Builder<'_>) -> Result<(), Error> {
    let (dim, value_dim) = (op.head_dim, op.value_dim());
    if dim.max(value_dim) > MAX_HEAD {
        return Err(Error::DeviceLimit {
            what: "the width of an attention head".into(),
            needed: dim.max(value_dim) as u64,
            limit: MAX_HEAD as u64,
        });
    }
    let mut vectors = Vectors::default();
    let (mut q_norm, mut k_norm, mut eps) = (ABSENT, ABSENT, [0.0, 0.0]);
    if let Some(norm) = &op.qk_norm {
        q_norm = builder.norm_vectors(&mut vectors, &norm.q)?.0;
        k_norm = builder.norm_vectors(&mut vectors, &norm.k)?.0;
        eps = [norm.q.eps, norm.k.eps];
    }
    // Elements of a head that are normed together; 0 for all heads together.
    let mut normed = match &op.qk_norm {
        Some(norm) if !norm.per_head => 0,
        _ => dim,
    };
    let mut value_start = 0;
    match &op.values {
        AttentionValues::Own(values) => value_start = values.offset,
        AttentionValues::Latent { width, norm } => {
            if let Some(norm) = norm {
                k_norm = builder.norm_vectors(&mut vectors, norm)?.0;
                (eps[1], normed) = (norm.eps, *width);
            }
        }
    }
    let vectors = builder.vectors(&vectors)?;
    let pairs = op.rope.as_ref().map_or(0, |rope| rope.inv_freq.len());
    let interleaved = op.rope.as_ref().is_some_and(|rope| rope.interleaved);
    let rotation = match &op.rope {
        Some(rope) => builder.rotation(Angles::Rope(rope.clone()))?,
        None => vectors,
    };
    // Each kernel binds some of these.
    let resources = [
        ("query_input", builder.buffer(op.queries.buffer)),
        ("input", builder.buffer(op.keys.buffer)),
        ("vectors", vectors),
        ("rotation", rotation),
        ("queries", Resource::Memory(builder.memory.queries)),
        ("keys", Resource::State(op.cache, 0)),
        ("values", Resource::State(op.cache, 1)),
        ("parts", Resource::Memory(builder.memory.scratch.tokens)),
        ("output", builder.buffer(op.output)),
    ];
    let pieces = op.pieces(FEW, builder.target.max_binding);
    let quads = dim.div_ceil(4);
    let stored = builder.state_type(op.cache);
    // Quantized keys and values are the weights of kernels of their own.
    let packed = stored != WeightType::F32;
    let mut form = |kernel: Kernel, groups: [Extent; 2], when: When| {
        builder.launch(
            kernel,
            stored,
            |builder, params| {
                params
                    .set("heads", op.heads)
                    .set("kv_heads", op.kv_heads)
                    .set("head_dim", dim)
                    .set("value_dim", value_dim)
                    .set("latent", usize::from(op.is_latent()))
                    .set("query_stride", builder.width(op.queries.buffer))
                    .set("query_start", op.queries.offset)
                    .set("input_stride", builder.width(op.keys.buffer))
                    .set("key_start", op.keys.offset)
                    .set("value_start", value_start)
                    .set("output_stride", builder.width(op.output))
                    .set_u32("q_norm", q_norm)
                    .set_u32("k_norm", k_norm)
                    .set("normed", normed)
                    .set("pairs", pairs)
                    .set("rope_start", op.rope_start)
                    .set("interleaved", usize::from(interleaved))
                    .set_f32("q_eps", eps[0])
                    .set_f32("k_eps", eps[1])
                    .set_f32("clip", op.clip.unwrap_or(0.0))
                    .set("window", op.window.unwrap_or(usize::MAX))
                    .set("sinks", if op.window.is_some() { op.sinks } else { 0 })
                    .set_f32("scale", op.scale)
                    .set("pieces", pieces)
                    .set("rows", rows_at_once(quads, dim.max(value_dim)));
            },
            &resources,
            groups,
            (Scope::Run, when),
        )
    };
    let fixed = Extent::Fixed;
    let aligned = dim.is_multiple_of(4);
    let by_pieces = match (packed, aligned) {
        (true, _) => Kernel::AttentionPiecesPacked,
        (false, true) => Kernel::AttentionPieces,
        (false, false) => Kernel::AttentionPiecesAny,
    };
    let (prepare, attend) = match packed {
        true => (Kernel::AttentionPreparePacked, Kernel::AttentionAttendPacked),
        false => (Kernel::AttentionPrepare, Kernel::AttentionAttend),
    };
    form(by_pieces, [fixed(op.kv_heads), fixed(pieces)], When::Few)?;
    form(Kernel::AttentionMerge, [fixed(op.heads), Extent::Tokens(1)], When::Few)?;
    let all = fixed(op.heads + op.kv_heads * if op.is_latent() { 1 } else { 2 });
    form(prepare, [all, Extent::Tokens(1)], When::Many)?;
    let tiles = Extent::Rows(op.heads / op.kv_heads);
    form(attend, [fixed(op.kv_heads), tiles], When::Many)
}

/// How many queries of `quads` times 4 elements a workgroup for few tokens takes together: it has memory for 256 times 4 elements, and its
/// threads have registers for eight queries of one element or four of several. `widest` is the width of the wider of key and value.
fn rows_at_once(quads: usize, widest: usize) -> usize {
    let most = if widest <= 128 { 8 } else { 4 };
    (256 / quads.max(1)).clamp(1, most)
}
