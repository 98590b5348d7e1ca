//! `conv1d` on a GPU.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::params::ABSENT;
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op::{self, Slice};

pub(super) fn add(op: &op::Conv1d, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut vectors = Vectors::default();
    let (mut taps, mut biases) = (Vec::new(), Vec::new());
    for conv in &op.convs {
        taps.extend(builder.weights.vector(&conv.weight)?);
        if let Some(bias) = &conv.bias {
            biases.extend(builder.weights.vector(bias)?);
        }
        biases.resize(taps.len() / conv.kernel.max(1), 0.0);
    }
    let weight = vectors.push(&taps);
    let bias = match op.convs.iter().any(|conv| conv.bias.is_some()) {
        true => vectors.push(&biases),
        false => ABSENT,
    };
    let vectors = builder.vectors(&vectors)?;
    // Without a gate, its binding holds the input again.
    let input_gate = op.input_gate.unwrap_or(op.input);
    let output_gate = op.output_gate.unwrap_or(op.input);
    let resources = [
        ("input", builder.buffer(op.input.buffer)),
        ("input_gate", builder.buffer(input_gate.buffer)),
        ("output_gate", builder.buffer(output_gate.buffer)),
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
                .set("channels", op.channels())
                .set("kernel", op.kernel())
                .set("input_offset", op.input.offset)
                .set("input_stride", builder.width(op.input.buffer))
                .set_u32("input_gate_offset", first_column(op.input_gate))
                .set("input_gate_stride", builder.width(input_gate.buffer))
                .set_u32("output_gate_offset", first_column(op.output_gate))
                .set("output_gate_stride", builder.width(output_gate.buffer))
                .set("silu", usize::from(op.silu))
                .set("output_stride", builder.width(op.output))
                .set_u32("weight", weight)
                .set_u32("bias", bias);
        },
        &resources,
        [Extent::Fixed(op.channels().div_ceil(64)), Extent::Tokens(1)],
        (Scope::Runs, When::Always),
    )
}

/// The first column of a gate, or [`ABSENT`].
fn first_column(gate: Option<Slice>) -> u32 {
    gate.map_or(ABSENT, |gate| u32::try_from(gate.offset).unwrap_or(ABSENT))
}
