//! `y_t[c] = silu(b[c] + sum_k w[c,k] x_{t-K+1+k}[c])`.

use kinglet::op::Conv1d;

use super::{Pass, Rows};

pub(super) fn conv1d(op: &Conv1d, pass: &Pass<'_>) -> Rows {
    let mut first = 0;
    let mut outputs = vec![Vec::new(); pass.tokens.len()];
    for conv in &op.convs {
        let inputs = pass.columns(op.input).into_iter();
        let channels: Rows = inputs.map(|row| row[first..first + conv.channels].to_vec()).collect();
        let convolved = pass.values.conv(conv).apply(&channels);
        outputs.iter_mut().zip(convolved).for_each(|(row, part)| row.extend(part));
        first += conv.channels;
    }
    outputs
}
