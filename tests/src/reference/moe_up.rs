//! `h_e = act(G_e n(x)) * (U_e n(x))` for each chosen expert `e` of a token, and for the shared expert.

use kinglet::models::Matrix;
use kinglet::op::MoeUp;

use super::gated_linear::gated;
use super::{Pass, Rows};

pub(super) fn moe_up(op: &MoeUp, pass: &Pass<'_>) -> Rows {
    let n = pass.values.norm(&op.norm);
    let pair = |(gate, up): &(Matrix, Matrix)| (pass.values.matrix(gate), pass.values.matrix(up));
    let experts: Vec<_> = op.experts.iter().map(pair).collect();
    let shared = op.shared.as_ref().map(pair);
    let one = |(x, routes): (&Vec<f64>, &Vec<f64>)| {
        let x = n.apply(x);
        let chosen = routes[..op.top_k].iter().map(|&expert| &experts[expert as usize]);
        chosen.chain(&shared).flat_map(|(g, u)| gated(op.activation, g, u, &x)).collect()
    };
    pass.read(op.input).iter().zip(pass.read(op.routes)).map(one).collect()
}
