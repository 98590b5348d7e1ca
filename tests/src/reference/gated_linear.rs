//! `h = act(G n(x) + b_g + d_g) * (U n(x) + b_u + d_u)`.

use kinglet::models::Activation;
use kinglet::op::GatedLinear;

use super::math::{activation, product};
use super::{Linear, Pass, Rows};

pub(super) fn gated_linear(op: &GatedLinear, pass: &Pass<'_>) -> Rows {
    let n = pass.values.before(op.norm.as_ref());
    let (g, u) = (pass.values.linear(&op.gate), pass.values.linear(&op.up));
    let rows = pass.read(op.input).iter().enumerate();
    let one = |(t, x): (usize, &Vec<f64>)| {
        let Some(added) = op.added else { return gated(op.activation, &g, &u, &n(x)) };
        let (d_g, d_u) = pass.read(added)[t].split_at(g.rows);
        let gate =
            g.apply(&n(x)).into_iter().zip(d_g).map(|(g, d)| activation(op.activation, g + d));
        let up = u.apply(&n(x)).into_iter().zip(d_u).map(|(u, d)| u + d);
        gate.zip(up).map(|(g, u)| g * u).collect()
    };
    rows.map(one).collect()
}

/// `act(G x) * (U x)`.
pub(super) fn gated(act: Activation, g: &Linear, u: &Linear, x: &[f64]) -> Vec<f64> {
    let gate: Vec<f64> = g.apply(x).into_iter().map(|g| activation(act, g)).collect();
    product(&gate, &u.apply(x))
}
