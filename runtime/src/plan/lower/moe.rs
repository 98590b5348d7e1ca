//! A mixture of experts: the router, the experts' up projections, their down projections.

use kinglet_models::{Activation, Dense, Moe};

use super::{Branch, Sum};
use crate::plan::op::{self, Op};

pub(super) fn lower(b: &mut Branch<'_>, m: &Moe) -> Sum {
    let (input, norm) = (b.x(), b.norm());
    let routes = b.op("routes", 2 * m.top_k, |output| {
        Op::MoeRoute(op::MoeRoute {
            input,
            norm,
            router: m.router.clone(),
            top_k: m.top_k,
            renormalize: m.renormalize,
            output,
        })
    });
    let pair = |dense: &Dense| (dense.gate.weight.clone(), dense.up.weight.clone());
    let inner = |dense: Option<&Dense>| dense.map_or(0, Dense::inner);
    let width = m.top_k * inner(m.experts.first()) + inner(m.shared.as_ref());
    let norm = b.norm();
    let made = b.op("inner", width, |output| {
        Op::MoeUp(op::MoeUp {
            input,
            norm,
            routes,
            top_k: m.top_k,
            experts: m.experts.iter().map(pair).collect(),
            shared: m.shared.as_ref().map(pair),
            activation: m.experts.first().map_or(Activation::Silu, |e| e.activation),
            output,
        })
    });
    Sum::Experts {
        input: made,
        routes,
        top_k: m.top_k,
        experts: m.experts.iter().map(|expert| expert.down.weight.clone()).collect(),
        shared: m.shared.as_ref().map(|dense| dense.down.weight.clone()),
    }
}
