//! A feed-forward network: gate and up in one op, or up with its activation, then down.

use kinglet_models::Dense;

use super::{Branch, Sum};
use crate::plan::op::{self, BufferId, Op, Output, Prologue};

pub(super) fn lower(b: &mut Branch<'_>, d: &Dense) -> Sum {
    let inner = inner(b, d);
    b.sum(inner, Prologue::None, &d.down)
}

/// What the down projection reads.
pub(super) fn inner(b: &mut Branch<'_>, d: &Dense) -> BufferId {
    let (input, norm) = (b.x(), b.norm());
    let (whole, before) = (b.whole(input), b.before());
    b.op("inner", d.inner(), |output| match d.gate.clone() {
        Some(gate) => Op::GatedLinear(op::GatedLinear {
            input,
            norm,
            gate,
            up: d.up.clone(),
            activation: d.activation,
            output,
        }),
        None => Op::Linear(op::Linear {
            input: whole,
            prologue: before,
            parts: vec![d.up.clone()],
            output,
            mode: Output::Activate(d.activation),
        }),
    })
}
