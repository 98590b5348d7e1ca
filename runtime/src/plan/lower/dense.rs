//! A feed-forward network: gate and up in one op, then down.

use kinglet_models::Dense;

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue};

pub(super) fn lower(b: &mut Branch<'_>, d: &Dense) -> Sum {
    let (input, norm) = (b.x(), b.norm());
    let output = b.op("inner", d.inner(), |output| {
        Op::GatedLinear(op::GatedLinear {
            input,
            norm,
            gate: d.gate.clone(),
            up: d.up.clone(),
            activation: d.activation,
            output,
        })
    });
    b.sum(output, Prologue::None, &d.down)
}
