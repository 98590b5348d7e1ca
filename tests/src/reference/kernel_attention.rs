//! With `phi(x) = x + 1` for `x > 0`, else `e^x`, for each key/value head `S = S + phi(k) v^T`, `z = z + phi(k)`, and for each of its query
//! heads `y = S^T phi(q) / (z . phi(q) + eps)`.

use kinglet::op::KernelAttention;

use super::math::dot;
use super::{Pass, Rows};

pub(super) fn kernel_attention(op: &KernelAttention, pass: &Pass<'_>) -> Rows {
    let KernelAttention { heads, kv_heads, head_dim: dk, .. } = *op;
    let (dv, group) = (op.values.width / kv_heads, heads / kv_heads);
    // Of each key/value head: S [dk, dv], z [dk].
    let mut sums = vec![(vec![vec![0.0; dv]; dk], vec![0.0; dk]); kv_heads];
    let (queries, keys, values) =
        (pass.columns(op.queries), pass.columns(op.keys), pass.columns(op.values));
    let mut outputs = Vec::new();
    for ((q, k), v) in queries.iter().zip(&keys).zip(&values) {
        for (kv, (s, z)) in sums.iter_mut().enumerate() {
            for (i, &k) in k[kv * dk..][..dk].iter().enumerate() {
                z[i] += phi(k);
                for (s, v) in s[i].iter_mut().zip(&v[kv * dv..]) {
                    *s += phi(k) * v;
                }
            }
        }
        let mut output = Vec::new();
        for head in 0..heads {
            let (s, z) = &sums[head / group];
            let q: Vec<f64> = q[head * dk..][..dk].iter().map(|&q| phi(q)).collect();
            let weight = dot(&q, z) + f64::from(op.eps);
            output.extend((0..dv).map(|d| {
                let sum: f64 = q.iter().zip(s).map(|(q, row)| q * row[d]).sum();
                sum / weight
            }));
        }
        outputs.push(output);
    }
    outputs
}

/// `elu(x) + 1`.
fn phi(x: f64) -> f64 {
    if x > 0.0 { x + 1.0 } else { x.exp() }
}
