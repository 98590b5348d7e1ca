//! A mixture of experts: the router, the experts' up projections, their down projections.

use kinglet_models::{Activation, Dense, Moe};

use super::{Branch, Sum};
use crate::plan::op::{self, Op, UpMatrices};

pub(super) fn lower(b: &mut Branch<'_>, m: &Moe) -> Sum {
    let (input, norm) = (b.input(), b.norm());
    let top_k = m.router.top_k;
    let route = op::MoeRoute {
        input,
        norm,
        router: m.router.clone(),
        shared_gate: m.shared_gate.clone(),
        output: input,
    };
    let routes =
        b.op("routes", route.width(), |output| Op::MoeRoute(op::MoeRoute { output, ..route }));
    let pair = |dense: &Dense| UpMatrices {
        gate: dense.gate.as_ref().map(|gate| gate.weight.clone()),
        up: dense.up.weight.clone(),
    };
    let inner = |dense: Option<&Dense>| dense.map_or(0, Dense::inner);
    let width = top_k * inner(m.experts.first()) + inner(m.shared.as_ref());
    let norm = b.norm();
    let made = b.op("inner", width, |output| {
        Op::MoeUp(op::MoeUp {
            input,
            norm,
            routes,
            top_k,
            experts: m.experts.iter().map(pair).collect(),
            shared: m.shared.as_ref().map(pair),
            activation: m.experts.first().map_or(Activation::Silu, |e| e.activation),
            output,
        })
    });
    Sum::Experts {
        input: made,
        routes,
        top_k,
        experts: m.experts.iter().map(|expert| expert.down.weight.clone()).collect(),
        shared: m.shared.as_ref().map(|dense| dense.down.weight.clone()),
        shared_gated: m.shared_gate.is_some(),
    }
}
