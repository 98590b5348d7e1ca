//! `moe_down` on wgpu: the chosen experts of a token one after the other, the shared expert with them where it is stored alike.

use kinglet_shaders::{Arithmetic, Kernel};

use super::moe_up::{Experts, section, upload};
use super::program::{Builder, Extent, Over, Resource, Stored, When, rows_of, set_matrix};
use crate::Error;
use crate::op;

pub(super) fn add(op: &op::MoeDown, builder: &mut Builder<'_>) -> Result<(), Error> {
    let experts = section(builder, &[op.experts.iter().collect()])?;
    let rows = experts.rows_per_item;
    let mut shared = Vec::new();
    if let Some(down) = &op.shared {
        shared.push(section(builder, &[vec![down]])?);
    }
    let shared_cols = op.shared.as_ref().map_or(0, |down| down.cols);
    for Experts { piece, has_experts, shared } in
        &upload(builder, vec![experts], shared, op.experts.len())?
    {
        let own = if *has_experts { op.inner() } else { shared_cols };
        // With rounded activations all experts pass in one loop.
        let all = op.top_k * op.inner() + shared_cols;
        let aligned = builder.width(op.input).is_multiple_of(4) && own.is_multiple_of(4);
        let stored = Stored { weights: piece.weights, aligned };
        let exact = builder.arithmetic(Kernel::MoeDown, stored) == Arithmetic::F32;
        let lanes = builder.lanes(Kernel::MoeDown, stored, rows, if exact { own } else { all });
        let resources = vec![
            ("input", builder.buffer(op.input)),
            ("gate", builder.buffer(op.input)),
            // No small tensors here; the binding must be something.
            ("vectors", builder.buffer(op.input)),
            ("weights", Resource::Buffer(piece.buffer.clone())),
            ("routes", builder.buffer(op.routes)),
            ("output", builder.buffer(op.output)),
        ];
        builder.dispatch(
            Kernel::MoeDown,
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
                    .set_f32("scale", op.scale);
                set_matrix(params, "matrix", piece, 0);
                set_matrix(params, "shared_matrix", piece, shared.unwrap_or(0));
            },
            resources,
            [Extent::Fixed(rows.div_ceil(rows_of(lanes))), Extent::Tokens(1)],
            (Over::Step, When::Always),
        )?;
    }
    Ok(())
}
