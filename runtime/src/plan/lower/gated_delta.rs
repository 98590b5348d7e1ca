//! The gated delta rule: one projection of all that reads the residual stream, the convolution, the wide sides of low-rank projections,
//! the scan, the norm of each head and its gate before the output projection.

use kinglet_models::{
    DeltaInputs, DeltaProjection, DeltaProjections, GatedDelta, KeyHeadProjections, Linear,
};

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue, Slice};

/// Added to squared lengths of queries and keys, in every model.
const UNIT_EPS: f32 = 1e-6;

pub(super) fn lower(b: &mut Branch<'_>, m: &GatedDelta) -> Sum {
    let (channels, values) =
        (2 * m.key_heads * m.key_dim + m.value_heads * m.value_dim, m.value_heads * m.value_dim);
    // Side by side: q, k and v, the output gate, decays, betas; of low-rank projections their narrow side.
    let (parts, gate, decay) = match &m.inputs {
        DeltaInputs::Separate(all) => {
            let DeltaProjections { q, k, v, gate, decay, beta } = &**all;
            let (gate_part, gate_up) = sides(gate);
            let (decay_part, decay_up) = sides(decay);
            let parts = [q, k, v, gate_part, decay_part, beta].map(Linear::clone).to_vec();
            let (gate, decay) = (gate_part.weight.rows, decay_part.weight.rows);
            (parts, (gate, gate_up), (decay, decay_up))
        }
        DeltaInputs::ByKeyHead(all) => (by_head(m, all), (values, None), (m.value_heads, None)),
    };
    let input = b.project("qkvgab", parts);
    let slice = |offset, width| Slice { buffer: input, offset, width };
    let ((gate_width, gate_up), (decay_width, decay_up)) = (gate, decay);
    let gate = slice(channels, gate_width);
    let decay = slice(channels + gate_width, decay_width);
    let beta = slice(channels + gate_width + decay_width, m.value_heads);

    let conv_state = b.conv_states(&m.convs);
    let qkv = b.op("convolved", channels, |output| {
        Op::Conv1d(op::Conv1d {
            input: slice(0, channels),
            input_gate: None,
            convs: m.convs.clone(),
            silu: true,
            output_gate: None,
            state: conv_state,
            output,
        })
    });
    let decay = widen(b, "decay", decay, decay_up);
    let gate = widen(b, "gate", gate, gate_up);
    let state = b.state("delta", &[m.value_heads, m.key_dim, m.value_dim]);
    let output = b.op("scanned", values, |output| {
        Op::GatedDeltaScan(op::GatedDeltaScan {
            qkv,
            decay,
            beta,
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

/// The side of a projection that reads the residual stream, and of a low-rank one the other.
fn sides(projection: &DeltaProjection) -> (&Linear, Option<&Linear>) {
    match projection {
        DeltaProjection::Full(linear) => (linear, None),
        DeltaProjection::LowRank { down, up } => (down, Some(up)),
    }
}

/// `up` of `narrow`, if there is one.
fn widen(b: &mut Branch<'_>, name: &'static str, narrow: Slice, up: Option<&Linear>) -> Slice {
    match up {
        None => narrow,
        Some(up) => {
            let buffer = b.linear(name, narrow, Prologue::None, vec![up.clone()]);
            b.whole(buffer)
        }
    }
}

/// The rows of all key heads, brought into the order of separate projections.
fn by_head(m: &GatedDelta, all: &KeyHeadProjections) -> Vec<Linear> {
    let KeyHeadProjections { qkvg, beta_decay } = all;
    let share = m.value_heads / m.key_heads.max(1);
    let (keys, values) = (m.key_dim, share * m.value_dim);
    let rows = |of: &Linear, each: usize, first: usize, rows: usize| -> Vec<Linear> {
        (0..m.key_heads).map(|head| of.weight.rows(head * each + first, rows).into()).collect()
    };
    let each = 2 * (keys + values);
    [
        rows(qkvg, each, 0, keys),
        rows(qkvg, each, keys, keys),
        rows(qkvg, each, 2 * keys, values),
        rows(qkvg, each, 2 * keys + values, values),
        rows(beta_decay, 2 * share, share, share),
        rows(beta_decay, 2 * share, 0, share),
    ]
    .concat()
}
