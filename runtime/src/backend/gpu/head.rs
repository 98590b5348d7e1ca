//! `head` on a GPU: only the tokens whose logits are wanted are computed.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::params::offset;
use super::projection::{Projection, set_matrix};
use super::recording::{Resource, Scope};
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::Head, builder: &mut Builder<'_>) -> Result<(), Error> {
    let pieces = builder.rows(&[std::slice::from_ref(&op.linear.weight)])?;
    let mut vectors = Vectors::default();
    let prologue = builder.norm(&mut vectors, builder.whole(op.input), op.norm.as_ref())?;
    let bias = builder.biases(&mut vectors, std::slice::from_ref(&op.linear))?;
    let vectors = builder.vectors(&vectors)?;
    let projection = Projection {
        prologue: &prologue,
        few: &prologue,
        vectors,
        pieces: &pieces,
        output: Resource::Memory(builder.memory.logits),
        scope: Scope::Logits,
        share: 1,
        more: &[],
    };
    let kernels = [Kernel::HeadRows, Kernel::HeadSmallTiles, Kernel::HeadTiles];
    builder.projection(kernels, &projection, |params, piece| {
        params
            .set("first_row", piece.items.start)
            .set("rows", piece.items.len())
            .set("output_stride", op.linear.weight.rows)
            .set_u32("bias", offset(bias, piece.items.start))
            .set_f32("scale", op.scale * op.linear.scale)
            .set_f32("cap", op.soft_cap.unwrap_or(0.0));
        set_matrix(params, "matrix", piece, 0);
    })
}
