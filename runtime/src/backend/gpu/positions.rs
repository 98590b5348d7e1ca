//! `positions` on a GPU: rows of a learned table, or sines that the host computes in double precision.

use kinglet_models::Positions;
use kinglet_shaders::{Kernel, WeightType};

use super::builder::Builder;
use super::memory::Angles;
use super::projection::set_matrix;
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::Positions, builder: &mut Builder<'_>) -> Result<(), Error> {
    let width = builder.width(op.output);
    let output = ("output", builder.buffer(op.output));
    let groups = [Extent::Fixed(width.div_ceil(256)), Extent::Tokens(1)];
    match &op.table {
        Positions::Learned(table) => {
            for piece in builder.rows(&[std::slice::from_ref(table)])? {
                builder.launch(
                    Kernel::PositionsLearned,
                    piece.weights,
                    |_, params| {
                        params
                            .set("width", width)
                            .set("first_row", piece.items.start)
                            .set("rows", piece.items.len());
                        set_matrix(params, "matrix", &piece, 0);
                    },
                    &[("weights", Resource::Memory(piece.memory)), output],
                    groups,
                    (Scope::Run, When::Always),
                )?;
            }
            Ok(())
        }
        Positions::Sinusoidal => {
            let turns = builder.rotation(Angles::Sinusoid(Positions::sinusoid(width)))?;
            builder.launch(
                Kernel::PositionsSinusoidal,
                WeightType::F32,
                |_, params| {
                    params.set("width", width);
                },
                &[("turns", turns), output],
                groups,
                (Scope::Step, When::Always),
            )
        }
    }
}
