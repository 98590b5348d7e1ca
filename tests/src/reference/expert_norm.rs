//! `y_e = w_e * rms(n(x))` for each chosen expert `e` of a token.

use kinglet::op::ExpertNorm;

use super::math::plain_norm;
use super::{Pass, Rows};

pub(super) fn expert_norm(op: &ExpertNorm, pass: &Pass<'_>) -> Rows {
    let n = pass.values.before(op.norm.as_ref());
    // The weights of all experts, one after another.
    let norm = pass.values.norm(&op.expert_norm);
    let one = |(x, routes): (&Vec<f64>, &Vec<f64>)| {
        let x = plain_norm(&n(x), norm.eps);
        let of = |expert: &f64| {
            let weight = &norm.weight[*expert as usize * x.len()..][..x.len()];
            x.iter().zip(weight).map(|(x, w)| norm.scale * x * w).collect::<Vec<_>>()
        };
        routes[..op.top_k].iter().flat_map(of).collect()
    };
    pass.read(op.input).iter().zip(pass.read(op.routes)).map(one).collect()
}
