//! `mlstm_scan` on wgpu.

use kinglet_shaders::{Kernel, WeightType};

use super::program::{Builder, Extent, Over, Resource, Vectors, When};
use crate::Error;
use crate::op;

/// Most elements of a key that the kernel has memory for.
const MAX_KEY: usize = 1024;
/// Most elements of a value that its threads have registers for.
const MAX_VALUE: usize = 2048;

pub(super) fn add(op: &op::MLstmScan, builder: &mut Builder<'_>) -> Result<(), Error> {
    for (what, needed, limit) in [
        ("mLSTM's width of keys", op.qk_head_dim, MAX_KEY),
        ("mLSTM's width of values", op.v_head_dim, MAX_VALUE),
    ] {
        if needed > limit {
            let (needed, limit) = (needed as u64, limit as u64);
            return Err(Error::DeviceLimit { what: what.into(), needed, limit });
        }
    }
    let mut vectors = Vectors::default();
    let norm_weight = builder.vector(&mut vectors, &op.head_norm.weight)?;
    let norm_bias = builder.optional(&mut vectors, op.head_norm.bias.as_ref())?;
    let resources = vec![
        ("input", builder.buffer(op.input)),
        ("vectors", builder.vectors(&vectors)?),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
    ];
    builder.dispatch(
        Kernel::MLstmScan,
        WeightType::F32,
        |builder, params| {
            params
                .set("heads", op.heads)
                .set("qk_head_dim", op.qk_head_dim)
                .set("v_head_dim", op.v_head_dim)
                .set("input_stride", builder.width(op.input))
                .set("output_stride", builder.width(op.output))
                .set_u32("norm_weight", norm_weight)
                .set_u32("norm_bias", norm_bias)
                .set_f32("gate_soft_cap", op.gate_soft_cap.unwrap_or(0.0))
                .set_f32("eps", op.eps)
                .set_f32("norm_eps", op.head_norm.eps);
        },
        resources,
        [Extent::Fixed(op.heads), Extent::Fixed(1)],
        (Over::Runs, When::Always),
    )
}
