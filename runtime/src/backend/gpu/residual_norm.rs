//! `residual_norm` on a GPU: a workgroup for each token.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::{Builder, Vectors};
use super::recording::{Extent, Scope, When};
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::ResidualNorm, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut vectors = Vectors::default();
    let (weight, bias) = builder.norm_vectors(&mut vectors, &op.norm)?;
    let mut resources =
        vec![("vectors", builder.vectors(&vectors)?), ("stream", builder.buffer(op.stream))];
    let kernel = match op.branch {
        Some(branch) => {
            resources.push(("branch", builder.buffer(branch)));
            Kernel::ResidualNormBranch
        }
        None => Kernel::ResidualNormStream,
    };
    builder.launch(
        kernel,
        WeightType::F32,
        |builder, params| {
            params
                .set("width", builder.width(op.stream))
                .set("centred", usize::from(op.norm.centred))
                .set_u32("weight", weight)
                .set_u32("bias", bias)
                .set_f32("eps", op.norm.eps)
                .set_f32("scale", op.scale);
        },
        &resources,
        [Extent::Tokens(1), Extent::Fixed(1)],
        (Scope::Step, When::Always),
    )
}
