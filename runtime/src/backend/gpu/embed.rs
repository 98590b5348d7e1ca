//! `embed` on a GPU.

use kinglet_shaders::Kernel;

use super::builder::Builder;
use super::projection::set_matrix;
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::Embed, builder: &mut Builder<'_>) -> Result<(), Error> {
    // Rows that come as vectors are written before the step.
    let Some(table) = &op.table else { return Ok(()) };
    for piece in builder.rows(&[std::slice::from_ref(table)])? {
        let resources =
            [("weights", Resource::Memory(piece.memory)), ("output", builder.buffer(op.output))];
        builder.launch(
            Kernel::Embed,
            piece.weights,
            |builder, params| {
                params
                    .set("cols", table.cols)
                    .set("first_row", piece.items.start)
                    .set("rows", piece.items.len())
                    .set("output_stride", builder.width(op.output))
                    .set_f32("scale", op.scale);
                set_matrix(params, "matrix", &piece, 0);
            },
            &resources,
            [Extent::Fixed(table.cols.div_ceil(256)), Extent::Tokens(1)],
            (Scope::Step, When::Always),
        )?;
    }
    Ok(())
}
