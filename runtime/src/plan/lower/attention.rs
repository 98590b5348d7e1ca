//! Attention: one projection to queries, keys and values, the attention itself, the output projection.

use kinglet_models::{Attention, QkvAdapters};

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, a: &Attention) -> Sum {
    let parts = a.q.iter().chain([&a.k, &a.v]).chain(&a.gate).cloned().collect();
    let input = b.project("qkv", parts);
    if let Some(QkvAdapters { q, k, v }) = a.adapters.as_deref() {
        b.adapt(input, &[q, k, v]);
    }
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
    let prologue = match a.gate_width() {
        0 => Prologue::None,
        width => {
            // After queries, keys and values.
            let offset = (a.heads + 2 * a.kv_heads) * a.head_dim;
            Prologue::SigmoidGate { gate: Slice { buffer: input, offset, width } }
        }
    };
    b.sum(output, prologue, &a.o)
}
