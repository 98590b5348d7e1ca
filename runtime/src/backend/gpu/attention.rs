//! `attention` on a GPU. Few tokens: one launch attends to pieces of the cache, the next merges the results. Many: one
//! launch prepares queries, keys and values, the next attends by tiles.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::{Builder, Vectors};
use super::memory::Rotation;
use super::params::ABSENT;
use super::recording::{Extent, FEW, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Largest head that the kernel has memory for.
pub(super) const MAX_HEAD: usize = 1024;

pub(super) fn add(op: &op::Attention, builder: &mut Builder<'_>) -> Result<(), Error> {
    if op.head_dim > MAX_HEAD {
        return Err(Error::DeviceLimit {
            what: "the width of an attention head".into(),
            needed: op.head_dim as u64,
            limit: MAX_HEAD as u64,
        });
    }
    let mut vectors = Vectors::default();
    let (mut q_norm, mut k_norm, mut eps) = (ABSENT, ABSENT, [0.0, 0.0]);
    if let Some(norm) = &op.qk_norm {
        q_norm = builder.vector(&mut vectors, &norm.q.weight)?;
        k_norm = builder.vector(&mut vectors, &norm.k.weight)?;
        eps = [norm.q.eps, norm.k.eps];
    }
    let vectors = builder.vectors(&vectors)?;
    let pairs = op.rope.as_ref().map_or(0, |rope| rope.inv_freq.len());
    let rotation = match &op.rope {
        Some(rope) => rotation(builder, rope)?,
        None => vectors,
    };
    // Each kernel binds some of these.
    let resources = [
        ("input", builder.buffer(op.input)),
        ("vectors", vectors),
        ("rotation", rotation),
        ("queries", Resource::Memory(builder.memory.queries)),
        ("keys", Resource::State(op.cache, 0)),
        ("values", Resource::State(op.cache, 1)),
        ("parts", Resource::Memory(builder.memory.scratch.tokens)),
        ("output", builder.buffer(op.output)),
    ];
    let pieces = op.pieces(FEW, builder.target.max_binding);
    let quads = op.head_dim.div_ceil(4);
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
                    .set("head_dim", op.head_dim)
                    .set("input_stride", builder.width(op.input))
                    .set("output_stride", builder.width(op.output))
                    .set_u32("q_norm", q_norm)
                    .set_u32("k_norm", k_norm)
                    .set("per_head", usize::from(op.qk_norm.as_ref().is_some_and(|n| n.per_head)))
                    .set("pairs", pairs)
                    .set_f32("q_eps", eps[0])
                    .set_f32("k_eps", eps[1])
                    .set_f32("clip", op.clip.unwrap_or(0.0))
                    .set("window", op.window.unwrap_or(usize::MAX))
                    .set("sinks", if op.window.is_some() { op.sinks } else { 0 })
                    .set_f32("scale", op.scale)
                    .set("pieces", pieces)
                    .set("rows", rows_at_once(quads));
            },
            &resources,
            groups,
            (Scope::Run, when),
        )
    };
    let fixed = Extent::Fixed;
    let aligned = op.head_dim.is_multiple_of(4);
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
    let all = fixed(op.heads + 2 * op.kv_heads);
    form(prepare, [all, Extent::Tokens(1)], When::Many)?;
    let tiles = Extent::Rows(op.heads / op.kv_heads);
    form(attend, [fixed(op.kv_heads), tiles], When::Many)
}

/// How many queries of `quads` times 4 elements a workgroup for few tokens takes together: it has memory for 256 times 4 elements, and its
/// threads have registers for eight queries of one element or four of several.
fn rows_at_once(quads: usize) -> usize {
    let most = if 4 * quads <= 128 { 8 } else { 4 };
    (256 / quads.max(1)).clamp(1, most)
}

/// The table of `rope`, shared by the layers with the same rotation.
fn rotation(builder: &mut Builder<'_>, rope: &kinglet_models::Rope) -> Result<Resource, Error> {
    if let Some(known) = builder.rotations.iter().find(|known| known.rope == *rope) {
        return Ok(Resource::Memory(known.memory));
    }
    let bytes = 8 * (builder.chunk * rope.inv_freq.len()) as u64;
    let name = format!("rotation {}", builder.rotations.len());
    let memory = builder.storage("rotations", &name, bytes)?;
    builder.rotations.push(Rotation { rope: rope.clone(), memory });
    Ok(Resource::Memory(memory))
}
