//! Of a token's `[q | k | v | o | i | f]`, for each head, with `i = cap(i)`, `f = logsigmoid(cap(f))`, `m' = max(f + m, i)`:
//! `C = e^(f+m-m') C + e^(i-m') k v^T`, `n = e^(f+m-m') n + e^(i-m') k`,
//! `h = (q^T C / sqrt(dk)) / (max(|q . n| / sqrt(dk), e^-m') + eps)`, `y = sigmoid(o) * (layer_norm(h) * weight + bias)`.

use kinglet::op::MLstmScan;

use super::math::{dot, layer_norm, log_sigmoid, sigmoid, soft_cap};
use super::{Pass, Rows};

pub(super) fn mlstm_scan(op: &MLstmScan, pass: &Pass<'_>) -> Rows {
    let MLstmScan { heads, qk_head_dim: qk, v_head_dim: dv, gate_soft_cap: cap, .. } = *op;
    let norm = pass.values.norm(&op.head_norm);
    let root = (qk as f64).sqrt();
    // The state of each head: C [qk, v], n [qk], m.
    let mut states = vec![(vec![vec![0.0; dv]; qk], vec![0.0; qk], 0.0f64); heads];
    let mut outputs = Vec::new();
    for row in pass.read(op.input) {
        // Columns of head `h` in each part of the row.
        let (queries, rest) = row.split_at(heads * qk);
        let (keys, rest) = rest.split_at(heads * qk);
        let (values, rest) = rest.split_at(heads * dv);
        let (output_gates, rest) = rest.split_at(heads * dv);
        let (input_gates, forget_gates) = rest.split_at(heads);
        let mut y = Vec::new();
        for (head, (c, n, m)) in states.iter_mut().enumerate() {
            let (q, k) = (&queries[head * qk..][..qk], &keys[head * qk..][..qk]);
            let v = &values[head * dv..][..dv];
            let i = soft_cap(input_gates[head], cap);
            let f = log_sigmoid(soft_cap(forget_gates[head], cap));

            let new_m = (f + *m).max(i);
            let (keep, take) = ((f + *m - new_m).exp(), (i - new_m).exp());
            *m = new_m;
            for ((c, n), k) in c.iter_mut().zip(n.iter_mut()).zip(k) {
                for (c, v) in c.iter_mut().zip(v) {
                    *c = keep * *c + take * k * v;
                }
                *n = keep * *n + take * k;
            }

            let below = (dot(q, n).abs() / root).max((-new_m).exp()) + f64::from(op.eps);
            let read = |b: usize| (0..qk).map(|a| q[a] * c[a][b]).sum::<f64>() / root / below;
            let h: Vec<f64> = (0..dv).map(read).collect();
            for (b, h) in layer_norm(&h, op.head_norm.eps).into_iter().enumerate() {
                let at = head * dv + b;
                let bias = norm.bias.as_ref().map_or(0.0, |bias| bias[at]);
                y.push(sigmoid(output_gates[at]) * norm.scale * (h * norm.weight[at] + bias));
            }
        }
        outputs.push(y);
    }
    outputs
}
