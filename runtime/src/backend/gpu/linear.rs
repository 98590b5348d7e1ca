//! `linear` on a GPU. Matrices that are stored alike are one matrix on the device.

use kinglet_models as spec;
use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::layout::Layout;
use super::params::{activation, offset};
use super::projection::{Projection, set_matrix};
use super::recording::Scope;
use crate::Error;
use crate::plan::op::{self, Output};

pub(super) fn add(op: &op::Linear, builder: &mut Builder<'_>) -> Result<(), Error> {
    let scan = builder.deferred_norms.remove(&op.input.buffer);
    let mut first = op.output.offset;
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
        add_parts(op, scan.as_ref(), parts, first, builder)?;
        first += parts.iter().map(|part| part.weight.rows).sum::<usize>();
        rest = others;
    }
    Ok(())
}

/// The parts whose outputs begin at column `first`. For few tokens, `scan` leaves its norm and its gate to them.
fn add_parts(
    op: &op::Linear,
    scan: Option<&op::MLstmScan>,
    parts: &[spec::Linear],
    first: usize,
    builder: &mut Builder<'_>,
) -> Result<(), Error> {
    let matrices: Vec<_> = parts.iter().map(|part| part.weight.clone()).collect();
    let pieces = builder.rows(&[&matrices])?;
    let mut vectors = Vectors::default();
    let prologue = builder.prologue(&mut vectors, op.input, &op.prologue)?;
    let few = match scan {
        Some(scan) => Some(builder.heads(&mut vectors, op.input, scan)?),
        None => None,
    };
    let bias = builder.biases(&mut vectors, parts)?;
    let factors = builder.factors(&mut vectors, parts);
    let (mode, scale, act) = match op.mode {
        Output::Store => (0, 1.0, 0),
        Output::Add { scale } => (1, scale, 0),
        Output::Activate(act) => (2, 1.0, activation(act)),
    };
    let vectors = builder.vectors(&vectors)?;
    let stride = builder.width(op.output.buffer);
    let projection = Projection {
        prologue: &prologue,
        few: few.as_ref().unwrap_or(&prologue),
        vectors,
        pieces: &pieces,
        output: builder.buffer(op.output.buffer),
        scope: Scope::Step,
        share: 1,
        more: &[],
    };
    let rows = if few.is_some() { Kernel::LinearHeadRows } else { Kernel::LinearRows };
    let kernels = [rows, Kernel::LinearSmallTiles, Kernel::LinearTiles];
    builder.projection(kernels, &projection, |params, piece| {
        params
            .set("first_row", first + piece.items.start)
            .set("rows", piece.items.len())
            .set("output_stride", stride)
            .set_u32("bias", offset(bias, piece.items.start))
            .set_u32("factors", offset(factors, piece.items.start))
            .set("mode", mode)
            .set("activation", act)
            .set_f32("scale", scale);
        set_matrix(params, "matrix", piece, 0);
    })
}
