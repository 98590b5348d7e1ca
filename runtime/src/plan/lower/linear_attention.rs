//! Linear attention: one projection to queries, keys, values and gates, the recurrence, norm and gate before the output projection.

use kinglet_models::{GateActivation, LinearAttention};

use super::{Branch, Sum};
use crate::plan::op::{self, HeadColumns, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, a: &LinearAttention) -> Sum {
    let (heads, keys, values) = (a.heads(), a.key_dim, a.value_dim);
    let input = b.project("qkvg", vec![a.qkv.clone(), a.gate.clone()]);
    let stride = 2 * keys + values;
    let columns = |first| HeadColumns { first, stride };
    let state = b.state("linear", &[heads, keys, values]);
    let output = b.op("attended", heads * values, |output| {
        Op::LinearAttention(op::LinearAttention {
            input,
            queries: columns(0),
            keys: columns(keys),
            values: columns(2 * keys),
            activation: Some(a.activation),
            scale: a.scale,
            log_decays: a.log_decays.clone(),
            key_dim: keys,
            value_dim: values,
            state,
            output,
        })
    });
    let gate = Slice { buffer: input, offset: heads * stride, width: heads * values };
    let activation = GateActivation::Sigmoid;
    let prologue = Prologue::NormGate { norm: a.norm.clone(), groups: 1, gate, activation };
    b.sum(output, prologue, &a.out_proj)
}
