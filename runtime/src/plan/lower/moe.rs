//! A mixture of experts: the router, the experts' up projections, their down projections. Experts of a narrower stream are between two
//! projections more, and experts that norm their inputs have these made for them. The expert that sees every token is a network beside
//! them then, and wherever it has biases.

use kinglet_models::{Activation, Dense, Latent, Linear, Matrix, Moe, Norm};

use super::{Branch, Sum, dense};
use crate::plan::op::{self, BufferId, Op, Prologue, Slice, UpMatrices};

pub(super) fn lower(b: &mut Branch<'_>, m: &Moe) -> Vec<Sum> {
    // The ops of the chosen experts take the shared one along if it reads and writes the same stream, as it is, and has no biases.
    let shared = m.shared.as_ref();
    let (along, beside) =
        match m.latent.is_some() || m.expert_norm.is_some() || shared.is_some_and(Dense::is_biased)
        {
            true => (None, shared),
            false => (shared, None),
        };
    let along_gate = m.shared_gate.as_ref().filter(|_| along.is_some());
    let routes = route(b, m, along_gate.cloned());
    let (input, norm) = match &m.latent {
        Some(latent) => (b.project("latent", vec![latent.down.clone()]), None),
        None => (b.input(), b.norm()),
    };
    let made = up_projections(b, m, routes, UpInput { input, norm, shared: along });
    let mut sums = vec![match &m.latent {
        Some(Latent { down, up }) => {
            let summed = b.op("summed", down.weight.rows, |output| {
                Op::MoeDown(op::MoeDown {
                    input: made,
                    routes,
                    top_k: m.router.top_k,
                    experts: downs(m),
                    shared: None,
                    shared_gated: false,
                    scale: 1.0,
                    store: true,
                    output,
                })
            });
            b.sum(summed, Prologue::None, up)
        }
        None => Sum::Experts {
            input: made,
            routes,
            top_k: m.router.top_k,
            experts: downs(m),
            shared: along.map(|dense| dense.down.weight.clone()),
            shared_gated: along_gate.is_some(),
        },
    }];
    if let Some(shared) = beside {
        let inner = dense::inner(b, shared);
        let prologue = match &m.shared_gate {
            // One gate for the whole network: what it reads is multiplied instead of what it adds.
            Some(gate) => {
                let gates = b.project("shared gate", vec![gate.clone()]);
                Prologue::SigmoidGate { gate: Slice { buffer: gates, offset: 0, width: 1 } }
            }
            None => Prologue::None,
        };
        sums.push(b.sum(inner, prologue, &shared.down));
    }
    sums
}

/// The router.
fn route(b: &mut Branch<'_>, m: &Moe, shared_gate: Option<Linear>) -> BufferId {
    let (input, norm) = (b.input(), b.norm());
    let route = op::MoeRoute { input, norm, router: m.router.clone(), shared_gate, output: input };
    b.op("routes", route.width(), |output| Op::MoeRoute(op::MoeRoute { output, ..route }))
}

/// What the up projections read, and the expert beside the chosen ones.
struct UpInput<'a> {
    input: BufferId,
    norm: Option<Norm>,
    shared: Option<&'a Dense>,
}

fn up_projections(b: &mut Branch<'_>, m: &Moe, routes: BufferId, from: UpInput<'_>) -> BufferId {
    let UpInput { mut input, mut norm, shared } = from;
    let top_k = m.router.top_k;
    if let Some(expert_norm) = m.expert_norm.clone() {
        let (first, width) = (norm.take(), b.whole(input).width);
        input = b.op("expert inputs", top_k * width, |output| {
            Op::ExpertNorm(op::ExpertNorm {
                input,
                norm: first,
                routes,
                top_k,
                expert_norm,
                output,
            })
        });
    }
    let pair = |dense: &Dense| UpMatrices {
        gate: dense.gate.as_ref().map(|gate| gate.weight.clone()),
        up: dense.up.weight.clone(),
    };
    let inner = |dense: Option<&Dense>| dense.map_or(0, Dense::inner);
    let width = top_k * inner(m.experts.first()) + inner(shared);
    b.op("inner", width, |output| {
        Op::MoeUp(op::MoeUp {
            input,
            own_inputs: m.expert_norm.is_some(),
            norm,
            routes,
            top_k,
            experts: m.experts.iter().map(pair).collect(),
            shared: shared.map(pair),
            activation: m.experts.first().map_or(Activation::Silu, |e| e.activation),
            output,
        })
    })
}

fn downs(m: &Moe) -> Vec<Matrix> {
    m.experts.iter().map(|expert| expert.down.weight.clone()).collect()
}
