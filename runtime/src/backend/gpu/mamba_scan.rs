//! `mamba_scan` on a GPU.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::params::ABSENT;
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Channels of a workgroup.
pub(super) const CHANNELS: usize = 32;

pub(super) fn add(op: &op::MambaScan, builder: &mut Builder<'_>) -> Result<(), Error> {
    if op.b.buffer != op.c.buffer {
        return Err(builder.target.fault("B and C of mamba_scan lie in two buffers"));
    }
    let mut vectors = Vectors::default();
    let a_log = builder.vector(&mut vectors, &op.a_log)?;
    let d = builder.vector(&mut vectors, &op.d)?;
    let [b_weight, c_weight] = match op.bc_weights() {
        Some([b, c]) => [builder.vector(&mut vectors, b)?, builder.vector(&mut vectors, c)?],
        None => [ABSENT; 2],
    };
    let vectors = builder.vectors(&vectors)?;
    let resources = [
        ("x", builder.buffer(op.x)),
        ("z", builder.buffer(op.z.buffer)),
        ("dt", builder.buffer(op.dt)),
        ("bc", builder.buffer(op.b.buffer)),
        ("vectors", vectors),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
    ];
    let width = op.inner / op.heads.max(1);
    let stored = builder.state_type(op.state);
    builder.launch(
        Kernel::MambaScan,
        stored,
        |builder, params| {
            params
                .set("inner", op.inner)
                .set("width", width)
                .set("head_stride", op.head_stride)
                .set("state_dim", op.state_dim)
                .set("z_offset", op.z.offset)
                .set("z_stride", builder.width(op.z.buffer))
                .set("b_offset", op.b.offset)
                .set("c_offset", op.c.offset)
                .set("bc_stride", builder.width(op.b.buffer))
                .set_u32("a_log", a_log)
                .set_u32("d", d)
                .set_u32("b_weight", b_weight)
                .set_u32("c_weight", c_weight)
                .set("norm", usize::from(op.bc_norm.is_some()))
                .set_f32("eps", op.bc_norm.as_ref().map_or(0.0, |norm| norm.eps));
        },
        &resources,
        [Extent::Fixed(width.div_ceil(CHANNELS)), Extent::Fixed(op.heads)],
        (Scope::Runs, When::Always),
    )
}
