//! sLSTM: the inner width, the gates of each channel, the cell, the output projection.

use kinglet_models::SLstm;

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue};

pub(super) fn lower(b: &mut Branch<'_>, m: &SLstm) -> Sum {
    let inner = m.heads * m.head_dim;
    let narrow = b.project("inner", vec![m.in_proj.clone()]);
    let input = b.linear("ifzo", b.whole(narrow), Prologue::None, vec![m.gates.clone()]);
    let state = b.exact_state("slstm", &[m.heads, 4 * m.head_dim]);
    let output = b.op("scanned", inner, |output| {
        Op::SLstmScan(op::SLstmScan {
            input,
            heads: m.heads,
            head_dim: m.head_dim,
            recurrent: m.recurrent.clone(),
            gating: m.gating,
            cell_norm: m.cell_norm.clone(),
            state,
            output,
        })
    });
    b.sum(output, Prologue::None, &m.out_proj)
}
