//! `embed` on wgpu.

use kinglet_shaders::Kernel;

use super::builder::Builder;
use super::dispatch::{Extent, Over, When};
use super::projection::set_matrix;
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::Embed, builder: &mut Builder<'_>) -> Result<(), Error> {
    for piece in builder.rows(&[std::slice::from_ref(&op.table)])? {
        let resources = vec![
            ("weights", super::dispatch::Resource::Buffer(piece.buffer.clone())),
            ("output", builder.buffer(op.output)),
        ];
        builder.dispatch(
            Kernel::Embed,
            piece.weights,
            |builder, params| {
                params
                    .set("cols", op.table.cols)
                    .set("first_row", piece.items.start)
                    .set("rows", piece.items.len())
                    .set("output_stride", builder.width(op.output))
                    .set_f32("scale", op.scale);
                set_matrix(params, "matrix", &piece, 0);
            },
            resources,
            [Extent::Fixed(op.table.cols.div_ceil(256)), Extent::Tokens(1)],
            (Over::Step, When::Always),
        )?;
    }
    Ok(())
}
