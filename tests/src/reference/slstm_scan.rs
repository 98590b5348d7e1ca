//! Of a token's `[i | f | z | o]`, each by head, plus `R h` of the last token. With exponential gates, `lf = log sigmoid(f)` or `f`,
//! `m' = max(lf + m, i)` (`i` at first): `c' = e^(lf+m-m') c + e^(i-m') tanh(z)`, `n' = e^(lf+m-m') n + e^(i-m')`, `s = c' / n'`; else
//! `c' = sigmoid(f) c + sigmoid(i) tanh(z)`, `s = c'`. Then `h = sigmoid(o) * rms_norm(s)` of each head.

use kinglet::models::{CellGating, ForgetGate};
use kinglet::op::SLstmScan;

use super::math::{dot, log_sigmoid, plain_norm, sigmoid};
use super::{Pass, Rows};

/// A head's `c`, `n`, `h`, and `m` once there is one.
struct Head {
    c: Vec<f64>,
    n: Vec<f64>,
    h: Vec<f64>,
    m: Vec<Option<f64>>,
}

pub(super) fn slstm_scan(op: &SLstmScan, pass: &Pass<'_>) -> Rows {
    let SLstmScan { heads, head_dim: dim, gating, .. } = *op;
    let recurrent = op.recurrent.as_ref().map(|all| pass.values.vector(all));
    let norm = pass.values.norm(&op.cell_norm);
    let new =
        || Head { c: vec![0.0; dim], n: vec![0.0; dim], h: vec![0.0; dim], m: vec![None; dim] };
    let mut states: Vec<Head> = (0..heads).map(|_| new()).collect();
    let mut outputs = Vec::new();
    for row in pass.read(op.input) {
        let mut y = Vec::new();
        for (head, state) in states.iter_mut().enumerate() {
            let before = state.h.clone();
            let gate = |which: usize, e: usize| {
                let mixed = recurrent.as_ref().map_or(0.0, |all| {
                    dot(&all[((head * 4 + which) * dim + e) * dim..][..dim], &before)
                });
                row[(which * heads + head) * dim + e] + mixed
            };
            let mut s = vec![0.0; dim];
            for e in 0..dim {
                let (i, f, z) = (gate(0, e), gate(1, e), gate(2, e).tanh());
                match gating {
                    CellGating::Sigmoid => {
                        state.c[e] = sigmoid(f) * state.c[e] + sigmoid(i) * z;
                        s[e] = state.c[e];
                    }
                    CellGating::Exponential(forget) => {
                        let lf = match forget {
                            ForgetGate::Sigmoid => log_sigmoid(f),
                            ForgetGate::Exponential => f,
                        };
                        let m = state.m[e].map_or(i, |m| (lf + m).max(i));
                        let keep = state.m[e].map_or(0.0, |before| (lf + before - m).exp());
                        let take = (i - m).exp();
                        state.c[e] = keep * state.c[e] + take * z;
                        state.n[e] = keep * state.n[e] + take;
                        state.m[e] = Some(m);
                        s[e] = state.c[e] / state.n[e];
                    }
                }
            }
            for (e, normed) in plain_norm(&s, op.cell_norm.eps).into_iter().enumerate() {
                let weighted = norm.scale * normed * norm.weight[head * dim + e];
                state.h[e] = sigmoid(gate(3, e)) * weighted;
            }
            y.extend(&state.h);
        }
        outputs.push(y);
    }
    outputs
}
