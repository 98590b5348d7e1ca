//! A feed-forward network: gate and up in one op, or up with its activation, then down.

use kinglet_models::Dense;

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Output, Prologue};

pub(super) fn lower(b: &mut Branch<'_>, d: &Dense) -> Sum {
    let (input, norm) = (b.x(), b.norm());
    let (whole, before) = (b.whole(input), b.before());
    let output = b.op("inner", d.inner(), |output| match d.gate.clone() {
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
    });
    b.sum(output, Prologue::None, &d.down)
}
