//! `conv1d` on a GPU.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::Conv1d, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut vectors = Vectors::default();
    let weight = builder.vector(&mut vectors, &op.conv.weight)?;
    let bias = builder.optional(&mut vectors, op.conv.bias.as_ref())?;
    let vectors = builder.vectors(&vectors)?;
    let resources = [
        ("input", builder.buffer(op.input.buffer)),
        ("vectors", vectors),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
    ];
    let stored = builder.state_type(op.state);
    builder.launch(
        Kernel::Conv1d,
        stored,
        |builder, params| {
            params
                .set("channels", op.conv.channels)
                .set("kernel", op.conv.kernel)
                .set("input_offset", op.input.offset)
                .set("input_stride", builder.width(op.input.buffer))
                .set("output_stride", builder.width(op.output))
                .set_u32("weight", weight)
                .set_u32("bias", bias);
        },
        &resources,
        [Extent::Fixed(op.conv.channels.div_ceil(64)), Extent::Tokens(1)],
        (Scope::Run, When::Always),
    )
}
