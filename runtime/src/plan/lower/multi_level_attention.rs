//! Multi-level attention: one projection to queries, keys and values, norm and rotation of queries and keys where there are any, the
//! attention itself, the output projection.

use kinglet_models::MultiLevelAttention;

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, a: &MultiLevelAttention) -> Sum {
    let (dim, queries, keys) = (a.head_dim, a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let input = b.project("qkv", vec![a.q.clone(), a.k.clone(), a.v.clone()]);
    let slice = |buffer, offset, width| Slice { buffer, offset, width };
    let prepared = b.heads(input, [queries, keys, dim], a.qk_norm.as_ref(), a.rope.as_ref());
    let windows = a.windows.clone();
    let cache = b.cache(a.kv_heads, [dim; 2], op::multi_level_window(&windows));
    let output = b.op("attended", queries, |output| {
        Op::MultiLevelAttention(op::MultiLevelAttention {
            queries: slice(prepared, 0, queries),
            keys: slice(prepared, queries, keys),
            values: slice(input, queries + keys, keys),
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: dim,
            scale: (dim as f32).sqrt().recip(),
            windows,
            level_logits: a.level_logits.clone(),
            cache,
            output,
        })
    });
    b.sum(output, Prologue::None, &a.o)
}
