//! `linear` on a GPU. Matrices that are stored alike are one matrix on the device.

use kinglet_models as spec;
use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::layout::Layout;
use super::mlstm_scan;
use super::projection::{Projection, set_matrix};
use super::recording::Scope;
use crate::Error;
use crate::plan::op::{self, Output};

pub(super) fn add(op: &op::Linear, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut first = 0;
    let mut rest = &op.parts[..];
    while let Some(part) = rest.first() {
        let stored = Layout::of(&builder.matrix(&part.weight)?);
        let mut alike = 1;
        while let Some(part) = rest.get(alike) {
            if Layout::of(&builder.matrix(&part.weight)?) != stored {
                break;
            }
            alike += 1;
        }
        let (parts, others) = rest.split_at(alike);
        add_parts(op, parts, first, builder)?;
        first += parts.iter().map(|part| part.weight.rows).sum::<usize>();
        rest = others;
    }
    Ok(())
}

/// The parts whose outputs begin at `first`.
fn add_parts(
    op: &op::Linear,
    parts: &[spec::Linear],
    first: usize,
    builder: &mut Builder<'_>,
) -> Result<(), Error> {
    let matrices: Vec<_> = parts.iter().map(|part| part.weight.clone()).collect();
    let pieces = builder.rows(&[&matrices])?;
    let mut vectors = Vectors::default();
    let prologue = builder.prologue(&mut vectors, op.input, &op.prologue)?;
    let few = match mlstm_scan::left_to(builder.plan, op) {
        Some(scan) => Some(builder.heads(&mut vectors, op.input, scan)?),
        None => None,
    };
    let bias = builder.biases(&mut vectors, parts)?;
    let (add, scale) = match op.mode {
        Output::Store => (0, 1.0),
        Output::Add { scale } => (1, scale),
    };
    let vectors = builder.vectors(&vectors)?;
    let stride = builder.width(op.output);
    let projection = Projection {
        prologue: &prologue,
        few: few.as_ref().unwrap_or(&prologue),
        vectors,
        pieces: &pieces,
        output: builder.buffer(op.output),
        scope: Scope::Step,
        share: 1,
    };
    let rows = if few.is_some() { Kernel::LinearHeadRows } else { Kernel::LinearRows };
    let kernels = [rows, Kernel::LinearSmallTiles, Kernel::LinearTiles];
    builder.projection(kernels, &projection, |params, piece| {
        params
            .set("first_row", first + piece.items.start)
            .set("rows", piece.items.len())
            .set("output_stride", stride)
            .set_u32("bias", super::params::offset(bias, piece.items.start))
            .set("add", add)
            .set_f32("scale", scale);
        set_matrix(params, "matrix", piece, 0);
    })
}
