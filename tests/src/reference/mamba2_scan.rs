//! Of a token's `[z | x | B | C | dt]`, `[x | B | C]` is convolved; for head `h` of group `g`:
//! `dt = clamp(softplus(dt + dt_bias))`, `a = exp(-exp(a_log) dt)`, `S = a S + dt B x^T`, `y = C^T S + d x`.

use kinglet::op::Mamba2Scan;

use super::math::softplus;
use super::{Pass, Rows};

pub(super) fn mamba2_scan(op: &Mamba2Scan, pass: &Pass<'_>) -> Rows {
    let Mamba2Scan { heads, head_dim, groups, state_dim, .. } = *op;
    let (inner, channels) = (heads * head_dim, heads * head_dim + 2 * groups * state_dim);
    let (a_log, d) = (pass.values.vector(&op.a_log), pass.values.vector(&op.d));
    let dt_bias = pass.values.vector(&op.dt_bias);
    let (low, high) = (f64::from(op.dt_limit.0), f64::from(op.dt_limit.1));

    let input = pass.read(op.input);
    let xbc: Rows = input.iter().map(|row| row[inner..inner + channels].to_vec()).collect();
    let xbc = pass.values.conv(&op.conv).apply(&xbc);

    // [heads, state, head_dim]
    let mut state = vec![0.0; heads * state_dim * head_dim];
    let mut outputs = Vec::new();
    for (row, xbc) in input.iter().zip(&xbc) {
        let (x, bc) = xbc.split_at(inner);
        let (b, c) = bc.split_at(groups * state_dim);
        let mut y = Vec::new();
        for head in 0..heads {
            let group = head / (heads / groups);
            let dt = softplus(row[inner + channels + head] + dt_bias[head]).clamp(low, high);
            let a = (-a_log[head].exp() * dt).exp();
            for p in 0..head_dim {
                let x = x[head * head_dim + p];
                let mut sum = d[head] * x;
                for n in 0..state_dim {
                    let s = &mut state[(head * state_dim + n) * head_dim + p];
                    *s = a * *s + dt * b[group * state_dim + n] * x;
                    sum += c[group * state_dim + n] * *s;
                }
                y.push(sum);
            }
        }
        outputs.push(y);
    }
    outputs
}
