//! `h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c]`, `y[c] = (sum_n C[n] h[c,n] + d[c] x[c]) * silu(z[c])`,
//! with `dt = softplus(.)` and `A = -exp(a_log)`; B and C are those of the channel's head.

use kinglet::op::{MambaScan, Slice};

use super::math::{plain_norm, product, silu, softplus};
use super::{Pass, Rows};

pub(super) fn mamba_scan(op: &MambaScan, pass: &Pass<'_>) -> Rows {
    let (inner, state_dim) = (op.inner, op.state_dim);
    let (a_log, d) = (pass.values.vector(&op.a_log), pass.values.vector(&op.d));
    let (x, z, dt) = (pass.read(op.x), pass.columns(op.z), pass.read(op.dt));
    let normed = |x: Vec<f64>, weight: Option<&Vec<f64>>| {
        let Some(norm) = &op.bc_norm else { return x };
        let x = plain_norm(&x, norm.eps);
        weight.map_or_else(|| x.clone(), |weight| product(&x, weight))
    };
    let weights = op.bc_weights().map(|weights| weights.each_ref().map(|w| pass.values.vector(w)));
    let [b_weight, c_weight] = weights.as_ref().map_or([None, None], |[b, c]| [Some(b), Some(c)]);
    // [heads][T, state]
    let of_heads = |first: Slice, weight: Option<&Vec<f64>>| -> Vec<Rows> {
        let of = |head: usize| Slice { offset: first.offset + head * op.head_stride, ..first };
        let rows = |head| pass.columns(of(head)).into_iter().map(|x| normed(x, weight)).collect();
        (0..op.heads).map(rows).collect()
    };
    let (b, c) = (of_heads(op.b, b_weight), of_heads(op.c, c_weight));
    // [inner, state]
    let mut h = vec![0.0; inner * state_dim];
    let mut step = |t: usize| {
        let channel = |ch: usize| {
            let (x, dt) = (x[t][ch], softplus(dt[t][ch]));
            let mut y = d[ch] * x;
            let head = ch / (inner / op.heads);
            for n in 0..state_dim {
                let a = -a_log[ch * state_dim + n].exp();
                let h = &mut h[ch * state_dim + n];
                *h = (dt * a).exp() * *h + dt * b[head][t][n] * x;
                y += c[head][t][n] * *h;
            }
            y * silu(z[t][ch])
        };
        (0..inner).map(channel).collect()
    };
    (0..x.len()).map(&mut step).collect()
}
