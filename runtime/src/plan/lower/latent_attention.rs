//! Latent attention: one projection to queries and latents, queries multiplied by the up projection of keys, attention over the
//! latents themselves, its result multiplied by the up projection of values.

use kinglet_models::{LatentAttention, LatentQueries, Linear, Matrix};

use super::{Branch, Sum};
use crate::plan::op::{self, AttentionValues, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, a: &LatentAttention) -> Sum {
    let first = match &a.q {
        LatentQueries::Full(q) => q,
        LatentQueries::LowRank { down, .. } => down,
    };
    let input = b.project("qkv", vec![first.clone(), a.kv_down.clone()]);
    let narrow = Slice { buffer: input, offset: 0, width: first.weight.rows };
    let queries = match &a.q {
        LatentQueries::Full(_) => narrow,
        LatentQueries::LowRank { norm, up, .. } => {
            let buffer = b.linear("q", narrow, Prologue::Norm(norm.clone()), vec![up.clone()]);
            b.whole(buffer)
        }
    };
    let matrices = |parts: &[Linear]| -> Vec<Matrix> {
        parts.iter().map(|part| part.weight.clone()).collect()
    };
    let absorbed = b.op("absorbed", a.heads * a.key_dim(), |output| {
        Op::HeadLinear(op::HeadLinear {
            input: queries,
            heads: matrices(&a.key_up),
            transposed: !a.key_up_transposed,
            carried: a.rope_dim,
            output,
        })
    });
    let cache = b.cache(1, [a.key_dim(), 0], None);
    let queries = b.whole(absorbed);
    let attended = b.op("attended", a.heads * a.rank, |output| {
        Op::Attention(op::Attention {
            queries,
            keys: Slice { buffer: input, offset: first.weight.rows, width: a.key_dim() },
            values: AttentionValues::Latent { width: a.rank, norm: Some(a.kv_norm.clone()) },
            heads: a.heads,
            kv_heads: 1,
            head_dim: a.key_dim(),
            scale: a.scale,
            qk_norm: None,
            clip: None,
            rope: a.rope.clone(),
            rope_start: a.rank,
            window: None,
            sinks: 0,
            cache,
            output,
        })
    });
    let input = b.whole(attended);
    let values = b.op("values", a.heads * a.value_dim, |output| {
        Op::HeadLinear(op::HeadLinear {
            input,
            heads: matrices(&a.value_up),
            transposed: false,
            carried: 0,
            output,
        })
    });
    b.sum(values, Prologue::None, &a.o)
}
