//! `y_t[c] = C_t[c] act(b[c] + sum_k w[c,k] u_{t-K+1+k}[c])`, `u_t[c] = B_t[c] x_t[c]`.

use kinglet::op::Conv1d;

use super::math::{product, silu};
use super::{Pass, Rows};

pub(super) fn conv1d(op: &Conv1d, pass: &Pass<'_>) -> Rows {
    let gated = |x: Rows, gate| match gate {
        Some(gate) => x.iter().zip(pass.columns(gate)).map(|(x, g)| product(x, &g)).collect(),
        None => x,
    };
    let inputs = gated(pass.columns(op.input), op.input_gate);
    let mut first = 0;
    let mut sums = vec![Vec::new(); inputs.len()];
    for conv in &op.convs {
        let channels: Rows =
            inputs.iter().map(|row| row[first..first + conv.channels].to_vec()).collect();
        let parts = pass.values.conv(conv).sums(&channels);
        sums.iter_mut().zip(parts).for_each(|(row, part)| row.extend(part));
        first += conv.channels;
    }
    if op.silu {
        sums.iter_mut().flatten().for_each(|x| *x = silu(*x));
    }
    gated(sums, op.output_gate)
}
