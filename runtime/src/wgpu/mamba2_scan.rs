//! `mamba2_scan` on wgpu.

use kinglet_shaders::{Kernel, WeightType};

use super::program::{Builder, Extent, Over, Resource, Vectors, When};
use crate::Error;
use crate::op;

pub(super) fn add(op: &op::Mamba2Scan, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut vectors = Vectors::default();
    let weight = builder.vector(&mut vectors, &op.conv.weight)?;
    let bias = builder.optional(&mut vectors, op.conv.bias.as_ref())?;
    let a_log = builder.vector(&mut vectors, &op.a_log)?;
    let d = builder.vector(&mut vectors, &op.d)?;
    let dt_bias = builder.vector(&mut vectors, &op.dt_bias)?;
    let resources = vec![
        ("input", builder.buffer(op.input)),
        ("vectors", builder.vectors(&vectors)?),
        ("conv_state", Resource::State(op.conv_state, 0)),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
    ];
    builder.dispatch(
        Kernel::Mamba2Scan,
        WeightType::F32,
        |builder, params| {
            params
                .set("heads", op.heads)
                .set("head_dim", op.head_dim)
                .set("groups", op.groups)
                .set("state_dim", op.state_dim)
                .set("channels", op.conv.channels)
                .set("kernel", op.conv.kernel)
                .set("input_stride", builder.width(op.input))
                .set("output_stride", builder.width(op.output))
                .set_u32("weight", weight)
                .set_u32("bias", bias)
                .set_u32("a_log", a_log)
                .set_u32("d", d)
                .set_u32("dt_bias", dt_bias)
                // Kernels can't hold infinity.
                .set_f32("dt_low", op.dt_limit.0.clamp(f32::MIN, f32::MAX))
                .set_f32("dt_high", op.dt_limit.1.clamp(f32::MIN, f32::MAX));
        },
        resources,
        [Extent::Fixed(op.heads), Extent::Fixed(op.head_dim.div_ceil(16))],
        (Over::Runs, When::Always),
    )
}
