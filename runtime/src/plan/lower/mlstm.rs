//! mLSTM: one projection to all inputs of the cell, the cell, the output projection.

use kinglet_models::MLstm;

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue};

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
        })
    });
    b.sum(output, Prologue::None, &m.out_proj)
}
