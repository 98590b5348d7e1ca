//! `h = act(G n(x) + b_g) * (U n(x) + b_u)`.

use kinglet::models::Activation;
use kinglet::op::GatedLinear;

use super::math::{activation, product};
use super::{Linear, Pass, Rows};

pub(super) fn gated_linear(op: &GatedLinear, pass: &Pass<'_>) -> Rows {
    let n = pass.values.before(op.norm.as_ref());
    let (g, u) = (pass.values.linear(&op.gate), pass.values.linear(&op.up));
    let inputs = pass.read(op.input).iter();
    inputs.map(|x| gated(op.activation, &g, &u, &n(x))).collect()
}

/// `act(G x) * (U x)`.
pub(super) fn gated(act: Activation, g: &Linear, u: &Linear, x: &[f64]) -> Vec<f64> {
    let gate: Vec<f64> = g.apply(x).into_iter().map(|g| activation(act, g)).collect();
    product(&gate, &u.apply(x))
}
