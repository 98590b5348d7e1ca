//! Hybrid attention: one projection to queries, keys, values and scores, norm and rotation of queries and keys where there are any, the
//! attention itself, the output projection.

use kinglet_models::HybridAttention;

use super::{Branch, Sum};
use crate::plan::op::{self, HybridLayout, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, a: &HybridAttention) -> Sum {
    let (dim, queries, keys) = (a.head_dim, a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let parts = [&a.q, &a.k, &a.v].into_iter().chain(&a.context).cloned().collect();
    let input = b.project("qkvs", parts);
    let slice = |buffer, offset, width| Slice { buffer, offset, width };
    let prepared = b.heads(input, [queries, keys, dim], a.qk_norm.as_ref(), a.rope.as_ref());
    let head_state = HybridLayout::new(&a.tiers, dim).head_state();
    let state = b.exact_state("hybrid", &[a.kv_heads, head_state]);
    let scores = a.context.as_ref().map(|_| slice(input, queries + 2 * keys, a.kv_heads));
    let output = b.op("attended", queries, |output| {
        Op::HybridAttention(op::HybridAttention {
            queries: slice(prepared, 0, queries),
            keys: slice(prepared, queries, keys),
            values: slice(input, queries + keys, keys),
            scores,
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: dim,
            scale: (dim as f32).sqrt().recip(),
            tiers: a.tiers,
            linear_gate: a.linear_gate.clone(),
            eps: a.eps,
            state,
            output,
        })
    });
    b.sum(output, Prologue::None, &a.o)
}
