//! Of a token's `[q | k | v]`, for value head `h` with its key head: `q = q / sqrt(q . q + eps) / sqrt(key_dim)`,
//! `k = k / sqrt(k . k + eps)`, `beta = beta_scale sigmoid(b)`, `g = -exp(a_log) softplus(a + dt_bias)`;
//! `S = diag(e^g) S`, `S = S + k (beta (v - S^T k))^T`, `y = S^T q`.

use kinglet::op::GatedDeltaScan;

use super::math::{dot, sigmoid, softplus};
use super::{Pass, Rows};

pub(super) fn gated_delta_scan(op: &GatedDeltaScan, pass: &Pass<'_>) -> Rows {
    let GatedDeltaScan { key_heads, value_heads, key_dim, value_dim, .. } = *op;
    let (a_log, dt_bias) = (pass.values.vector(&op.a_log), pass.values.vector(&op.dt_bias));
    let eps = f64::from(op.norm_eps);
    let unit = |x: &[f64]| -> Vec<f64> { x.iter().map(|e| e / (dot(x, x) + eps).sqrt()).collect() };
    let (decays, betas) = (pass.columns(op.decay), pass.columns(op.beta));

    // [value_heads, key_dim, value_dim]
    let mut state = vec![vec![vec![0.0; value_dim]; key_dim]; value_heads];
    let mut outputs = Vec::new();
    for ((row, a), b) in pass.read(op.qkv).iter().zip(&decays).zip(&betas) {
        let (q, rest) = row.split_at(key_heads * key_dim);
        let (k, v) = rest.split_at(key_heads * key_dim);
        let mut y = Vec::new();
        for (head, s) in state.iter_mut().enumerate() {
            let key_head = head / (value_heads / key_heads) * key_dim;
            let q: Vec<f64> = unit(&q[key_head..][..key_dim]);
            let k: Vec<f64> = unit(&k[key_head..][..key_dim]);
            let v = &v[head * value_dim..][..value_dim];
            let beta = f64::from(op.beta_scale) * sigmoid(b[head]);
            for (channel, s) in s.iter_mut().enumerate() {
                let at = if op.per_channel { head * key_dim + channel } else { head };
                let g = -a_log[head].exp() * softplus(a[at] + dt_bias[at]);
                s.iter_mut().for_each(|s| *s *= g.exp());
            }
            for column in 0..value_dim {
                let held: f64 = (0..key_dim).map(|c| s[c][column] * k[c]).sum();
                let update = beta * (v[column] - held);
                (0..key_dim).for_each(|c| s[c][column] += k[c] * update);
                let read: f64 = (0..key_dim).map(|c| s[c][column] * q[c]).sum();
                y.push(read / (key_dim as f64).sqrt());
            }
        }
        outputs.push(y);
    }
    outputs
}
