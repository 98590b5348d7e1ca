//! mLSTM: one projection to all inputs of the cell, the cell, the output projection.

use kinglet_models::MLstm;

use super::{Branch, Sum};
use crate::plan::Plan;
use crate::plan::op::{self, BufferId, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, m: &MLstm) -> Sum {
    let parts = [&m.q, &m.k, &m.v, &m.ogate, &m.igate, &m.fgate];
    let input = b.project("qkvoif", parts.map(Clone::clone).to_vec());
    let head_state = m.qk_head_dim * m.v_head_dim + m.qk_head_dim + 1;
    let state = b.state("mlstm", &[m.heads, head_state]);
    let output = b.op("scanned", m.heads * m.v_head_dim, |output| {
        Op::MLstmScan(op::MLstmScan {
            input,
            heads: m.heads,
            qk_head_dim: m.qk_head_dim,
            v_head_dim: m.v_head_dim,
            gate_soft_cap: m.gate_soft_cap,
            eps: m.eps,
            head_norm: m.head_norm.clone(),
            state,
            output,
            // See `defer_norms`.
            defers_norm: false,
        })
    });
    b.sum(output, Prologue::None, &m.out_proj)
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
        let defers = next.prologue == Prologue::None
            && next.input == whole
            && readers == 1
            // The gate is in the scan's input.
            && slot(next.output.buffer) != slot(scan.input);
        if let Some(Op::MLstmScan(scan)) = plan.ops.get_mut(index - 1) {
            scan.defers_norm = defers;
        }
    }
}
