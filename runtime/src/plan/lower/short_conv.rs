//! A short convolution: one projection to gates and input, the gated convolution, the output projection.

use kinglet_models::ShortConv;

use super::{Branch, Sum};
use crate::plan::op::{self, Op, Prologue, Slice};

pub(super) fn lower(b: &mut Branch<'_>, c: &ShortConv) -> Sum {
    let channels = c.conv.channels;
    let buffer = b.project("bcx", vec![c.in_proj.clone()]);
    let part = |index: usize| Slice { buffer, offset: index * channels, width: channels };
    let state = b.conv_state(&c.conv);
    let output = b.op("convolved", channels, |output| {
        Op::Conv1d(op::Conv1d {
            input: part(2),
            input_gate: Some(part(0)),
            convs: vec![c.conv.clone()],
            silu: false,
            output_gate: Some(part(1)),
            state,
            output,
        })
    });
    b.sum(output, Prologue::None, &c.out_proj)
}
