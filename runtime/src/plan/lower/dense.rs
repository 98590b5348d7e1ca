//! A feed-forward network: gate and up in one op, or up with its activation, then down.

use kinglet_models::{Adapter, Dense};

use super::{Branch, Sum};
use crate::plan::op::{self, BufferId, Op, Output, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, d: &Dense) -> Sum {
    let inner = inner(b, d);
    match d.out.as_deref() {
        None => b.sum(inner, Prologue::None, &d.down),
        Some(out) => {
            let result = b.linear("down", b.whole(inner), Prologue::None, vec![d.down.clone()]);
            b.sum(result, Prologue::None, out)
        }
    }
}

/// What the down projection reads.
pub(super) fn inner(b: &mut Branch<'_>, d: &Dense) -> BufferId {
    let (input, norm) = (b.input(), b.norm());
    let (whole, before, inner) = (b.whole(input), b.before(), d.inner());
    debug_assert!(d.adapter.is_none() || d.gate.is_some(), "only gated networks have adapters");
    let added = d.adapter.as_deref().map(|Adapter { down, up }| {
        let narrow = b.project("narrow", vec![down.clone()]);
        b.linear("adapted", b.whole(narrow), Prologue::None, vec![up.clone()])
    });
    b.op("inner", inner, |output| match d.gate.clone() {
        Some(gate) => Op::GatedLinear(op::GatedLinear {
            input,
            norm,
            gate,
            up: d.up.clone(),
            added,
            activation: d.activation,
            output,
        }),
        None => Op::Linear(op::Linear {
            input: whole,
            prologue: before,
            parts: vec![d.up.clone()],
            output: Slice { buffer: output, offset: 0, width: inner },
            mode: Output::Activate(d.activation),
        }),
    })
}
