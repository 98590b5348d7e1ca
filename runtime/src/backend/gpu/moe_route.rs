//! `moe_route` on a GPU.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::projection::set_matrix;
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Most experts that the kernel has workgroup memory for.
pub(super) const MAX_EXPERTS: usize = 512;

pub(super) fn add(op: &op::MoeRoute, builder: &mut Builder<'_>) -> Result<(), Error> {
    let experts = op.router.weight.rows;
    let limit = |needed: usize, limit: usize| Error::DeviceLimit {
        what: "a router's number of experts".into(),
        needed: needed as u64,
        limit: limit as u64,
    };
    if experts > MAX_EXPERTS {
        return Err(limit(experts, MAX_EXPERTS));
    }
    let pieces = builder.rows(&[std::slice::from_ref(&op.router.weight)])?;
    let [piece] = &pieces[..] else { return Err(limit(experts, pieces[0].items.len())) };
    let mut vectors = Vectors::default();
    let prologue = builder.norm(&mut vectors, builder.whole(op.input), Some(&op.norm))?;
    let bias = builder.optional(&mut vectors, op.router.bias.as_ref())?;
    let vectors = builder.vectors(&vectors)?;
    let mut resources = builder.prologue_resources(&prologue, vectors);
    resources.push(("weights", Resource::Memory(piece.memory)));
    resources.push(("output", builder.buffer(op.output)));
    builder.launch(
        Kernel::MoeRoute,
        piece.weights,
        |builder, params| {
            builder.set_prologue(params, &prologue);
            params
                .set("experts", experts)
                .set("top_k", op.top_k)
                .set("renormalize", usize::from(op.renormalize))
                .set("output_stride", builder.width(op.output))
                .set_u32("bias", bias);
            set_matrix(params, "matrix", piece, 0);
        },
        &resources,
        [Extent::Tokens(1), Extent::Fixed(1)],
        (Scope::Step, When::Always),
    )
}
