//! Of a token's `[q | k | v | o | i | f]`, for each head, with `i = cap(i)`, `f = logsigmoid(cap(f))` or `cap(f)`, `m' = max(f + m, i)`:
//! `C = e^(f+m-m') C + e^(i-m') k v^T`, `n = e^(f+m-m') n + e^(i-m') k`,
//! `h = (q^T C / sqrt(dk)) / (max(|q . n| / sqrt(dk), e^-m') + eps)`,
//! `y = sigmoid(o) * (norm(h) * weight + bias) * silu(b)`, where there may be no norm and no `b`.

use kinglet::models::ForgetGate;
use kinglet::op::MLstmScan;

use super::math::{dot, layer_norm, log_sigmoid, plain_norm, sigmoid, silu, soft_cap};
use super::{Pass, Rows};

pub(super) fn mlstm_scan(op: &MLstmScan, pass: &Pass<'_>) -> Rows {
    let MLstmScan { heads, qk_head_dim: qk, v_head_dim: dv, gate_soft_cap: cap, .. } = *op;
    let norm = op.head_norm.as_ref().map(|norm| pass.values.norm(norm));
    let streams = op.stream_gate.map(|gate| pass.columns(gate));
    let root = (qk as f64).sqrt();
    // The state of each head: C [qk, v], n [qk], m.
    let mut states = vec![(vec![vec![0.0; dv]; qk], vec![0.0; qk], 0.0f64); heads];
    let mut outputs = Vec::new();
    for (t, row) in pass.read(op.input).iter().enumerate() {
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
            let f = match op.forget_gate {
                ForgetGate::Sigmoid => log_sigmoid(soft_cap(forget_gates[head], cap)),
                ForgetGate::Exponential => soft_cap(forget_gates[head], cap),
            };

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
            let h = match &norm {
                Some(norm) => {
                    let normed = match op.centred {
                        true => layer_norm(&h, norm.eps),
                        false => plain_norm(&h, norm.eps),
                    };
                    let weighted = normed.iter().zip(&norm.weight[head * dv..]).map(|(h, w)| h * w);
                    let bias =
                        |b: usize| norm.bias.as_ref().map_or(0.0, |bias| bias[head * dv + b]);
                    weighted.enumerate().map(|(b, h)| norm.scale * (h + bias(b))).collect()
                }
                None => h,
            };
            for (b, h) in h.into_iter().enumerate() {
                let at = head * dv + b;
                let stream = streams.as_ref().map_or(1.0, |streams| silu(streams[t][at]));
                y.push(sigmoid(output_gates[at]) * h * stream);
            }
        }
        outputs.push(y);
    }
    outputs
}
