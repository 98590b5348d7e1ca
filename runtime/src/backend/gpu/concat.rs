//! `concat` on a GPU: a launch for each input.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::Builder;
use super::recording::{Extent, Scope, When};
use crate::Error;
use crate::plan::op;

/// Elements that a workgroup copies.
const THREADS: usize = 64;

pub(super) fn add(op: &op::Concat, builder: &mut Builder<'_>) -> Result<(), Error> {
    let mut first = 0;
    for input in &op.inputs {
        builder.launch(
            Kernel::Concat,
            WeightType::F32,
            |builder, params| {
                params
                    .set("cols", input.width)
                    .set("input_offset", input.offset)
                    .set("input_step", input.step)
                    .set("input_stride", builder.width(input.buffer))
                    .set("output_offset", first)
                    .set("output_stride", builder.width(op.output));
            },
            &[("input", builder.buffer(input.buffer)), ("output", builder.buffer(op.output))],
            [Extent::Fixed(input.width.div_ceil(THREADS)), Extent::Tokens(1)],
            (Scope::Step, When::Always),
        )?;
        first += input.width;
    }
    Ok(())
}
