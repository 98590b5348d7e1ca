//! `moe_down` on a GPU. Few tokens: the experts of a token in one launch, with the shared expert where it is stored alike. Many: in groups,
//! whose shares are then added up.

use kinglet_shaders::{Arithmetic, Kernel, WeightType};

use super::builder::{Builder, Stored, Vectors};
use super::grouped::Grouped;
use super::moe_up::{Experts, section, upload};
use super::projection::{INT8_UNIT, PREPARED, rows_of, set_matrix};
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op::{self, Prologue};

/// Elements that a workgroup of the sum computes.
pub(super) const SUM_THREADS: usize = 256;

pub(super) fn add(op: &op::MoeDown, builder: &mut Builder<'_>) -> Result<(), Error> {
    let experts = section(builder, std::slice::from_ref(&op.experts))?;
    let rows = experts.rows_per_item;
    let mut shared = Vec::new();
    if let Some(down) = &op.shared {
        shared.push(section(builder, &[vec![down.clone()]])?);
    }
    let shared_cols = op.shared.as_ref().map_or(0, |down| down.cols);
    let pieces = upload(builder, vec![experts], shared, op.experts.len())?;
    for (index, Experts { piece, has_experts, shared }) in pieces.iter().enumerate() {
        let own = if *has_experts { op.inner() } else { shared_cols };
        // With rounded activations one loop takes all experts.
        let all = op.top_k * op.inner() + shared_cols;
        let aligned = builder.width(op.input).is_multiple_of(4)
            && op.inner().is_multiple_of(INT8_UNIT)
            && shared_cols.is_multiple_of(INT8_UNIT);
        let stored = Stored { weights: piece.weights, aligned };
        let exact = builder.arithmetic(Kernel::MoeDownRows, stored) == Arithmetic::F32;
        let lanes = builder.lanes(Kernel::MoeDownRows, stored, rows, if exact { own } else { all });
        let resources = [
            ("input", builder.buffer(op.input)),
            ("gate", builder.buffer(op.input)),
            // There are no small tensors, but the binding must exist.
            ("vectors", builder.buffer(op.input)),
            ("weights", Resource::Memory(piece.memory)),
            ("routes", builder.buffer(op.routes)),
            ("output", builder.buffer(op.output)),
        ];
        builder.launch(
            Kernel::MoeDownRows,
            stored,
            |builder, params| {
                params
                    .set("first_expert", piece.items.start)
                    .set("experts", piece.items.len())
                    .set("rows", rows)
                    .set("inner", op.inner())
                    .set("shared_inner", if shared.is_some() { shared_cols } else { 0 })
                    .set("places", if *has_experts { op.top_k } else { 0 })
                    .set("top_k", op.top_k)
                    .set("input_stride", builder.width(op.input))
                    .set("routes_stride", builder.width(op.routes))
                    .set("output_stride", builder.width(op.output))
                    .set("lanes", lanes)
                    .set("shared_gated", usize::from(op.shared_gated))
                    // The other pieces add to what the first one stored.
                    .set("store", usize::from(op.store && index == 0))
                    .set_f32("scale", op.scale);
                set_matrix(params, "matrix", piece, 0);
                set_matrix(params, "shared_matrix", piece, shared.unwrap_or(0));
            },
            &resources,
            [Extent::Fixed(rows.div_ceil(rows_of(lanes))), Extent::Tokens(1)],
            (Scope::Step, When::Few),
        )?;
    }
    let prologue =
        builder.prologue(&mut Vectors::default(), builder.whole(op.input), &Prologue::None)?;
    let shares = builder.shares((op.top_k + 1) * rows)?;
    builder.grouped(
        &Grouped {
            kernels: [Kernel::MoeDownSmallTiles, Kernel::MoeDownTiles],
            pieces: &pieces,
            prologue: &prologue,
            vectors: builder.buffer(op.input),
            routes: op.routes,
            experts: op.experts.len(),
            top_k: op.top_k,
            shared: op.shared.is_some(),
            parts: (op.top_k, op.inner()),
            rows,
            output: shares,
        },
        |params, experts, _| {
            params
                .set("rows", rows)
                .set("shared_inner", if experts.shared.is_some() { shared_cols } else { 0 })
                .set("part_stride", op.inner().next_multiple_of(PREPARED))
                .set("tiles.cols", op.inner());
        },
    )?;
    builder.launch(
        Kernel::MoeDownSum,
        WeightType::F32,
        |builder, params| {
            params
                .set("rows", rows)
                .set("top_k", op.top_k)
                .set("shared_expert", usize::from(op.shared.is_some()))
                .set("shared_gated", usize::from(op.shared_gated))
                .set("store", usize::from(op.store))
                .set("routes_stride", builder.width(op.routes))
                .set("output_stride", builder.width(op.output))
                .set_f32("scale", op.scale);
        },
        &[
            ("routes", builder.buffer(op.routes)),
            ("shares", shares),
            ("output", builder.buffer(op.output)),
        ],
        [Extent::Fixed(rows.div_ceil(SUM_THREADS)), Extent::Tokens(1)],
        (Scope::Step, When::Many),
    )
}
