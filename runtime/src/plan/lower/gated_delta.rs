//! The gated delta rule: one projection of all that reads the residual stream, the convolution, low-rank projections up, the scan, the
//! norm of each head and its gate before the output projection.

use kinglet_models::{DeltaProjection, GatedDelta, Linear};

use super::{Branch, Sum};
use crate::plan::op::{self, BufferId, Op, Prologue, Slice};

/// Added to squared lengths of queries and keys, in every model.
const UNIT_EPS: f32 = 1e-6;

pub(super) fn lower(b: &mut Branch<'_>, m: &GatedDelta) -> Sum {
    let mut parts: Vec<Linear> = Vec::new();
    let mut add = |linears: &[Linear]| -> (usize, usize) {
        let offset = parts.iter().map(|part| part.weight.rows).sum();
        parts.extend_from_slice(linears);
        (offset, linears.iter().map(|part| part.weight.rows).sum())
    };
    let (_, q) = add(&m.q);
    let (_, k) = add(&m.k);
    let (_, v) = add(&m.v);
    let mut narrow = |projection: &DeltaProjection| match projection {
        DeltaProjection::Full(all) => add(all),
        DeltaProjection::LowRank { down, up: _ } => add(std::slice::from_ref(down)),
    };
    let gate = narrow(&m.gate);
    let decay = narrow(&m.decay);
    let beta = add(&m.beta);

    let input = b.project("qkvgab", parts);
    let slice = |(offset, width): (usize, usize)| Slice { buffer: input, offset, width };
    let channels = q + k + v;
    let conv_state = b.conv_states(&m.convs);
    let qkv = b.op("convolved", channels, |output| {
        Op::Conv1d(op::Conv1d {
            input: slice((0, channels)),
            convs: m.convs.clone(),
            state: conv_state,
            output,
        })
    });
    let mut wide = |name, projection: &DeltaProjection, narrow: Slice| match projection {
        DeltaProjection::Full(_) => narrow,
        DeltaProjection::LowRank { up, down: _ } => {
            let buffer: BufferId = b.linear(name, narrow, Prologue::None, vec![up.clone()]);
            b.whole(buffer)
        }
    };
    let decay = wide("decay", &m.decay, slice(decay));
    let gate = wide("gate", &m.gate, slice(gate));
    let state = b.state("delta", &[m.value_heads, m.key_dim, m.value_dim]);
    let output = b.op("scanned", m.value_heads * m.value_dim, |output| {
        Op::GatedDeltaScan(op::GatedDeltaScan {
            qkv,
            decay,
            beta: slice(beta),
            a_log: m.a_log.clone(),
            dt_bias: m.dt_bias.clone(),
            per_channel: m.per_channel,
            beta_scale: m.beta_scale,
            key_heads: m.key_heads,
            value_heads: m.value_heads,
            key_dim: m.key_dim,
            value_dim: m.value_dim,
            norm_eps: UNIT_EPS,
            state,
            output,
        })
    });
    let prologue = Prologue::NormGate {
        norm: m.norm.clone(),
        groups: m.value_heads,
        gate,
        activation: m.gate_activation,
    };
    b.sum(output, prologue, &m.out_proj)
}
