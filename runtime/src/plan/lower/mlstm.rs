//! mLSTM: the inner width where the cell has one of its own, a projection to all inputs of the cell, the cell, the output projection.

use kinglet_models::{MLstm, MLstmInner};

use super::{Branch, Sum};
use crate::plan::Plan;
use crate::plan::op::{self, BufferId, HeadPart, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, m: &MLstm) -> Sum {
    let (input, stream_gate) = match m.inner.as_deref() {
        None => {
            let parts = [&m.q, &m.k, &m.v, &m.ogate, &m.igate, &m.fgate];
            let input = b.project("qkvoif", parts.map(Clone::clone).to_vec());
            let width = m.heads * m.v_head_dim;
            let values = Slice { buffer: input, offset: m.values_at(), width };
            (normed(b, m, input, values), None)
        }
        Some(inner) => {
            let (input, gate) = within(b, m, inner);
            (input, Some(gate))
        }
    };
    let head_state = m.qk_head_dim * m.v_head_dim + m.qk_head_dim + 1;
    let state = b.state("mlstm", &[m.heads, head_state]);
    let output = b.op("scanned", m.heads * m.v_head_dim, |output| {
        Op::MLstmScan(op::MLstmScan {
            input,
            heads: m.heads,
            qk_head_dim: m.qk_head_dim,
            v_head_dim: m.v_head_dim,
            gate_soft_cap: m.gate_soft_cap,
            forget_gate: m.forget_gate,
            eps: m.eps,
            head_norm: m.head_norm.clone(),
            centred: m.centred,
            stream_gate,
            state,
            output,
            // See `defer_norms`.
            defers_norm: false,
        })
    });
    b.sum(output, Prologue::None, &m.out_proj)
}

/// The cell's inputs in a layer with a width of its own, and the columns of its second gate.
fn within(b: &mut Branch<'_>, m: &MLstm, inner: &MLstmInner) -> (BufferId, Slice) {
    let width = m.heads * m.v_head_dim;
    let both = b.project("inner", vec![inner.in_proj.clone()]);
    let slice = |offset| Slice { buffer: both, offset, width };
    let (stream, gate) = (slice(0), slice(width));
    let [q, k, v, o, i, f] = [&m.q, &m.k, &m.v, &m.ogate, &m.igate, &m.fgate].map(Clone::clone);
    let Some(conv) = &inner.conv else {
        let input = b.linear("qkvoif", stream, Prologue::None, vec![q, k, v, o, i, f]);
        let values = Slice { buffer: input, offset: m.values_at(), width };
        return (normed(b, m, input, values), gate);
    };
    let state = b.conv_state(conv);
    let convolved = b.op("convolved", width, |output| {
        Op::Conv1d(op::Conv1d {
            input: stream,
            input_gate: None,
            convs: vec![conv.clone()],
            silu: true,
            output_gate: None,
            state,
            output,
        })
    });
    let others = b.linear("qkoif", b.whole(convolved), Prologue::None, vec![q, k, o, i, f]);
    let values = b.linear("v", stream, Prologue::None, vec![v]);
    let values = b.whole(values);
    (normed(b, m, others, values), gate)
}

/// Queries, keys, `values`, output gates, input and forget gates side by side, queries and keys normed. `input` has them in this order, with
/// the values or without them.
fn normed(b: &mut Branch<'_>, m: &MLstm, input: BufferId, values: Slice) -> BufferId {
    if m.qk_norm.is_none() && values.buffer == input {
        return input;
    }
    let keys = m.heads * m.qk_head_dim;
    // Where the output gates are.
    let after = 2 * keys + if values.buffer == input { values.width } else { 0 };
    let norms = m.qk_norm.as_ref().map(|norms| (norms.q.clone(), norms.k.clone())).unzip();
    let part = |input: Slice, head_dim, norm| HeadPart { input, head_dim, norm, rotated: false };
    let slice = |offset, width| Slice { buffer: input, offset, width };
    let rest = values.width + 2 * m.heads;
    let parts = vec![
        part(slice(0, keys), m.qk_head_dim, norms.0),
        part(slice(keys, keys), m.qk_head_dim, norms.1),
        part(values, values.width, None),
        part(slice(after, rest), rest, None),
    ];
    let width = 2 * keys + values.width + rest;
    b.op("cell", width, |output| Op::HeadNorm(op::HeadNorm { parts, rope: None, output }))
}

/// Decides [`op::MLstmScan::defers_norm`] for all scans, once buffers have slots.
pub(super) fn defer_norms(plan: &mut Plan) {
    for index in 1..plan.ops.len() {
        let (before, after) = plan.ops.split_at(index);
        let (Some(Op::MLstmScan(scan)), Some(Op::Linear(next))) = (before.last(), after.first())
        else {
            continue;
        };
        let whole = Slice { buffer: scan.output, offset: 0, width: scan.heads * scan.v_head_dim };
        let readers = plan.ops.iter().filter(|op| op.uses().reads.contains(&scan.output)).count();
        let slot = |buffer: BufferId| plan.buffers.get(buffer.0).map(|buffer| buffer.slot);
        // The projection knows one norm and one gate.
        let defers = scan.head_norm.is_some()
            && scan.centred
            && scan.stream_gate.is_none()
            && next.prologue == Prologue::None
            && next.input == whole
            && readers == 1
            // The gate is in the scan's input.
            && slot(next.output.buffer) != slot(scan.input);
        if let Some(Op::MLstmScan(scan)) = plan.ops.get_mut(index - 1) {
            scan.defers_norm = defers;
        }
    }
}
