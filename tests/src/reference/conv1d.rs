//! `y_t[c] = silu(b[c] + sum_k w[c,k] x_{t-K+1+k}[c])`.

use kinglet::op::Conv1d;

use super::{Pass, Rows};

pub(super) fn conv1d(op: &Conv1d, pass: &Pass<'_>) -> Rows {
    pass.values.conv(&op.conv).apply(&pass.columns(op.input))
}
