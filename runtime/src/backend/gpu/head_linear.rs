//! `head_linear` on a GPU: one launch for any number of tokens, of which a workgroup takes several.

use kinglet_shaders::Kernel;

use super::builder::Builder;
use super::layout::Layout;
use super::projection::set_matrix;
use super::recording::{Extent, Resource, Scope, When};
use super::weights::Section;
use crate::Error;
use crate::plan::op;

/// Outputs of a head that a workgroup computes, by rows and by columns of the matrix.
pub(super) const OUTPUTS: [usize; 2] = [16, 256];
/// Tokens that it takes.
pub(super) const TOKENS: usize = 8;

pub(super) fn add(op: &op::HeadLinear, builder: &mut Builder<'_>) -> Result<(), Error> {
    let heads: Vec<_> =
        op.heads.iter().map(|matrix| builder.matrix(matrix)).collect::<Result<_, _>>()?;
    let rows = op.heads.first().map_or(0, |matrix| matrix.rows);
    let section = Section { stacks: vec![heads], rows_per_item: rows };
    let layout = Layout::common(section.matrices());
    let pieces = builder.pieces(layout, vec![section], op.heads.len())?;
    let (kernel, each) = match op.transposed {
        false => (Kernel::HeadLinearRows, OUTPUTS[0]),
        true => (Kernel::HeadLinearColumns, OUTPUTS[1]),
    };
    // What is carried along is copied by the workgroups of each head's first outputs.
    let blocks = op.outputs().div_ceil(each).max(1);
    for piece in &pieces {
        builder.launch(
            kernel,
            piece.weights,
            |builder, params| {
                params
                    .set("first_head", piece.items.start)
                    .set("blocks", blocks)
                    .set("inputs", op.inputs())
                    .set("outputs", op.outputs())
                    .set("carried", op.carried)
                    .set("input_offset", op.input.offset)
                    .set("input_stride", builder.width(op.input.buffer))
                    .set("output_stride", builder.width(op.output));
                set_matrix(params, "matrix", piece, 0);
            },
            &[
                ("input", builder.buffer(op.input.buffer)),
                ("weights", Resource::Memory(piece.memory)),
                ("output", builder.buffer(op.output)),
            ],
            [Extent::Fixed(piece.items.len() * blocks), Extent::Tiles(TOKENS)],
            (Scope::Step, When::Always),
        )?;
    }
    Ok(())
}
