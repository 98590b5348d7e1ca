//! Attention: one projection to queries, keys and values, the attention itself, the output projection.

use kinglet_models::Attention;

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue};

pub(super) fn lower(b: &mut Branch<'_>, a: &Attention) -> Sum {
    let input = b.project("qkv", vec![a.q.clone(), a.k.clone(), a.v.clone()]);
    let cache = b.cache(a.kv_heads, a.head_dim, a.window);
    let output = b.op("attended", a.heads * a.head_dim, |output| {
        Op::Attention(op::Attention {
            input,
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            scale: a.scale,
            qk_norm: a.qk_norm.clone(),
            clip: a.clip,
            rope: a.rope.clone(),
            window: a.window,
            sinks: 0,
            cache,
            output,
        })
    });
    b.sum(output, Prologue::None, &a.o)
}
