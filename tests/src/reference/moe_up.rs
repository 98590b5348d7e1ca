//! `h_e = act(G_e n(x)) * (U_e n(x))`, or without gates `h_e = act(U_e n(x))`, for each chosen expert `e` of a token, and for the shared
//! expert. Or of inputs that a token's experts have for themselves.

use kinglet::op::{MoeUp, UpMatrices};

use super::gated_linear::gated;
use super::math::activation;
use super::{Linear, Pass, Rows};

pub(super) fn moe_up(op: &MoeUp, pass: &Pass<'_>) -> Rows {
    let n = pass.values.before(op.norm.as_ref());
    let pair = |expert: &UpMatrices| {
        let matrix = |matrix| pass.values.matrix(matrix);
        (expert.gate.as_ref().map(matrix), matrix(&expert.up))
    };
    let experts: Vec<_> = op.experts.iter().map(pair).collect();
    let shared = op.shared.as_ref().map(pair);
    let one = |(x, routes): (&Vec<f64>, &Vec<f64>)| {
        let chosen = routes[..op.top_k].iter().map(|&expert| &experts[expert as usize]);
        let half = |(g, u): &(Option<Linear>, Linear), x: &[f64]| match g {
            Some(g) => gated(op.activation, g, u, x),
            None => u.apply(x).into_iter().map(|u| activation(op.activation, u)).collect(),
        };
        if op.own_inputs {
            let inputs = x.chunks(x.len() / op.top_k);
            return chosen.zip(inputs).flat_map(|(expert, x)| half(expert, x)).collect();
        }
        let x = n(x);
        chosen.chain(&shared).flat_map(|expert| half(expert, &x)).collect()
    };
    pass.read(op.input).iter().zip(pass.read(op.routes)).map(one).collect()
}
