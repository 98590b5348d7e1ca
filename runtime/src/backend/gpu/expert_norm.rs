//! `expert_norm` on a GPU: a workgroup for each token.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::{Builder, Vectors};
use super::recording::{Extent, Scope, When};
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::ExpertNorm, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut vectors = Vectors::default();
    let prologue = builder.norm(&mut vectors, builder.whole(op.input), op.norm.as_ref())?;
    let (weight, _) = builder.norm_vectors(&mut vectors, &op.expert_norm)?;
    let vectors = builder.vectors(&vectors)?;
    let mut resources = builder.prologue_resources(&prologue, vectors);
    resources.push(("routes", builder.buffer(op.routes)));
    resources.push(("output", builder.buffer(op.output)));
    builder.launch(
        Kernel::ExpertNorm,
        WeightType::F32,
        |builder, params| {
            builder.set_prologue(params, &prologue);
            params
                .set("top_k", op.top_k)
                .set("routes_stride", builder.width(op.routes))
                .set_u32("weight", weight)
                .set_f32("eps", op.expert_norm.eps);
        },
        &resources,
        [Extent::Tokens(1), Extent::Fixed(1)],
        (Scope::Step, When::Always),
    )
}
