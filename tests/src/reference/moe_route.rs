//! The `top_k` largest of `softmax(R n(x))`, largest first, scaled to sum to 1 if `renormalize` is
//! set.

use kinglet::op::MoeRoute;

use super::math::softmax;
use super::{Linear, Norm, Pass, Rows};

pub(super) fn moe_route(op: &MoeRoute, pass: &Pass<'_>) -> Rows {
    let (n, r) = (pass.values.norm(&op.norm), pass.values.linear(&op.router));
    let route = |x: &Vec<f64>| {
        let mut chosen = ranked(x, &n, &r);
        chosen.truncate(op.top_k);
        let total: f64 = chosen.iter().map(|(_, p)| p).sum();
        let weight = |p: f64| if op.renormalize { p / total } else { p };
        let experts = chosen.iter().map(|(expert, _)| *expert as f64);
        experts.chain(chosen.iter().map(|(_, p)| weight(*p))).collect()
    };
    pass.read(op.input).iter().map(route).collect()
}

/// All experts with their probabilities, largest first; on a tie the lower index first.
pub fn ranked(x: &[f64], norm: &Norm, router: &Linear) -> Vec<(usize, f64)> {
    let probabilities = softmax(&router.apply(&norm.apply(x)));
    let mut ranked: Vec<_> = probabilities.into_iter().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked
}
