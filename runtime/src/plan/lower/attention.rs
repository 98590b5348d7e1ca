//! Attention: one projection to queries, keys and values, the attention itself, the output projection.

use kinglet_models::{Attention, QkvAdapters};

use super::{Branch, Sum};
use crate::plan::op::{self, AttentionValues, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, a: &Attention) -> Sum {
    let parts = a.q.iter().chain([&a.k, &a.v]).chain(&a.gate).cloned().collect();
    let input = b.project("qkv", parts);
    if let Some(QkvAdapters { q, k, v }) = a.adapters.as_deref() {
        b.adapt(input, &[q, k, v]);
    }
    let cache = b.cache(a.kv_heads, [a.head_dim; 2], a.window);
    let (queries, keys) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let slice = |offset, width| Slice { buffer: input, offset, width };
    let output = b.op("attended", queries, |output| {
        Op::Attention(op::Attention {
            queries: slice(0, queries),
            keys: slice(queries, keys),
            values: AttentionValues::Own(slice(queries + keys, keys)),
            heads: a.heads,
            kv_heads: a.kv_heads,
            head_dim: a.head_dim,
            scale: a.scale,
            qk_norm: a.qk_norm.clone(),
            clip: a.clip,
            rope: a.rope.clone(),
            rope_start: 0,
            window: a.window,
            sinks: 0,
            cache,
            output,
        })
    });
    let prologue = match a.gate_width() {
        0 => Prologue::None,
        width => {
            // After queries, keys and values.
            Prologue::SigmoidGate { gate: slice(queries + 2 * keys, width) }
        }
    };
    b.sum(output, prologue, &a.o)
}
