//! `gated_linear` on a GPU.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::params::{activation, offset};
use super::projection::{Projection, set_matrix};
use super::recording::Scope;
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::GatedLinear, builder: &mut Builder<'_>) -> Result<(), Error> {
    let (gate, up) = (&op.gate.weight, &op.up.weight);
    let pieces = builder.rows(&[std::slice::from_ref(gate), std::slice::from_ref(up)])?;
    let mut vectors = Vectors::default();
    let prologue = builder.norm(&mut vectors, builder.whole(op.input), op.norm.as_ref())?;
    let gate_bias = builder.biases(&mut vectors, std::slice::from_ref(&op.gate))?;
    let up_bias = builder.biases(&mut vectors, std::slice::from_ref(&op.up))?;
    let vectors = builder.vectors(&vectors)?;
    let stride = builder.width(op.output);
    // Without anything to add, its binding holds the input again.
    let added = op.added.unwrap_or(op.input);
    let added_stride = op.added.map_or(0, |added| builder.width(added));
    let projection = Projection {
        prologue: &prologue,
        few: &prologue,
        vectors,
        pieces: &pieces,
        output: builder.buffer(op.output),
        scope: Scope::Step,
        share: 2,
        more: &[("added", builder.buffer(added))],
    };
    let kernels =
        [Kernel::GatedLinearRows, Kernel::GatedLinearSmallTiles, Kernel::GatedLinearTiles];
    builder.projection(kernels, &projection, |params, piece| {
        let start = piece.items.start;
        params
            .set("first_row", start)
            .set("rows", piece.items.len())
            .set("output_stride", stride)
            .set("added_stride", added_stride)
            .set("inner", op.up.weight.rows)
            .set_u32("gate_bias", offset(gate_bias, start))
            .set_u32("up_bias", offset(up_bias, start))
            .set("activation", activation(op.activation))
            .set_f32("gate_scale", op.gate.scale)
            .set_f32("up_scale", op.up.scale);
        set_matrix(params, "matrix", piece, 0);
    })
}
