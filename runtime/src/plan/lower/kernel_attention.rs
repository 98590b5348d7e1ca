//! Normalised linear attention: one projection to queries, keys and values, norm and rotation of queries and keys where there are any, the
//! attention itself, the output projection.

use kinglet_models::KernelAttention;

use super::{Branch, Sum};
use crate::plan::op::{self, HeadPart, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, a: &KernelAttention) -> Sum {
    let (dim, queries, keys) = (a.head_dim, a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let input = b.project("qkv", vec![a.q.clone(), a.k.clone(), a.v.clone()]);
    let slice = |buffer, offset, width| Slice { buffer, offset, width };
    let mut prepared = input;
    if a.qk_norm.is_some() || a.rope.is_some() {
        let norms = a.qk_norm.as_ref().map(|norms| (norms.q.clone(), norms.k.clone())).unzip();
        let part = |offset, width, norm| HeadPart {
            input: slice(input, offset, width),
            head_dim: dim,
            norm,
            rotated: a.rope.is_some(),
        };
        let parts = vec![part(0, queries, norms.0), part(queries, keys, norms.1)];
        prepared = b.op("qk", queries + keys, |output| {
            Op::HeadNorm(op::HeadNorm { parts, rope: a.rope.clone(), output })
        });
    }
    let state = b.exact_state("linear", &[a.kv_heads, 2 * dim * (dim + 1)]);
    let output = b.op("attended", queries, |output| {
        Op::KernelAttention(op::KernelAttention {
            queries: slice(prepared, 0, queries),
            keys: slice(prepared, queries, keys),
            values: slice(input, queries + keys, keys),
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: dim,
            eps: a.eps,
            state,
            output,
        })
    });
    b.sum(output, Prologue::None, &a.o)
}
