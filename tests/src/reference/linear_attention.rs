//! For each head of decay `a = exp(log_decay)`, with `q`, `k` and `v` passed through the activation: `S = a S + k v^T`,
//! `y = scale S^T q`.

use kinglet::op::{HeadColumns, LinearAttention};

use super::math::activation;
use super::{Pass, Rows};

pub(super) fn linear_attention(op: &LinearAttention, pass: &Pass<'_>) -> Rows {
    let LinearAttention { key_dim, value_dim, .. } = *op;
    let heads = op.log_decays.len();
    // [heads, key_dim, value_dim]
    let mut state = vec![0.0; heads * key_dim * value_dim];
    let one = |row: &Vec<f64>| {
        let part = |columns: HeadColumns, head: usize, width: usize| -> Vec<f64> {
            let x = &row[columns.first + head * columns.stride..][..width];
            x.iter().map(|&x| op.activation.map_or(x, |act| activation(act, x))).collect()
        };
        let mut y = vec![0.0; heads * value_dim];
        for head in 0..heads {
            let (q, k) = (part(op.queries, head, key_dim), part(op.keys, head, key_dim));
            let v = part(op.values, head, value_dim);
            let a = f64::from(op.log_decays[head]).exp();
            for i in 0..key_dim {
                for j in 0..value_dim {
                    let s = &mut state[(head * key_dim + i) * value_dim + j];
                    *s = a * *s + k[i] * v[j];
                    y[head * value_dim + j] += f64::from(op.scale) * q[i] * *s;
                }
            }
        }
        y
    };
    pass.read(op.input).iter().map(one).collect()
}
