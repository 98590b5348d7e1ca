//! `head_norm` on a GPU: one launch, a workgroup for each head of a token.

use kinglet_shaders::{Kernel, WeightType};

use super::builder::{Builder, Vectors};
use super::memory::Angles;
use super::params::ABSENT;
use super::recording::{Extent, Scope, When};
use crate::Error;
use crate::plan::op;

pub(super) fn add(op: &op::HeadNorm, builder: &mut Builder<'_>) -> Result<(), Error> {
    let first = op.parts.first().map_or(op.output, |part| part.input.buffer);
    let mut others = op.parts.iter().map(|part| part.input.buffer).filter(|own| *own != first);
    let other = others.next().unwrap_or(first);
    if others.any(|own| own != other) {
        return Err(builder.target.fault("heads of head_norm lie in more than two buffers"));
    }
    let (mut vectors, mut heads) = (Vectors::default(), Vec::new());
    let mut known = None;
    for (part, from, to) in op.heads() {
        let weight = match (&part.norm, known) {
            (None, _) => ABSENT,
            (Some(_), Some((own, weight))) if std::ptr::eq(own, part) => weight,
            (Some(norm), _) => vectors.push(&builder.weights.norm_weight(norm)?),
        };
        known = Some((part, weight));
        let eps = part.norm.as_ref().map_or(1.0, |norm| norm.eps);
        let is_other = u32::from(part.input.buffer != first);
        let columns = [from, to, part.head_dim].map(|column| column as u32);
        heads.extend([is_other].into_iter().chain(columns));
        heads.extend([weight, eps.to_bits(), u32::from(part.rotated), 0]);
    }
    let count = heads.len() / 8;
    let vectors = builder.vectors(&vectors)?;
    let (pairs, interleaved, rotation) = match &op.rope {
        Some(rope) => {
            (rope.inv_freq.len(), rope.interleaved, builder.rotation(Angles::Rope(rope.clone()))?)
        }
        None => (0, false, vectors),
    };
    let resources = [
        ("heads", builder.words(&heads)?),
        ("input", builder.buffer(first)),
        ("other", builder.buffer(other)),
        ("vectors", vectors),
        ("rotation", rotation),
        ("output", builder.buffer(op.output)),
    ];
    builder.launch(
        Kernel::HeadNorm,
        WeightType::F32,
        |builder, params| {
            params
                .set("input_stride", builder.width(first))
                .set("other_stride", builder.width(other))
                .set("output_stride", builder.width(op.output))
                .set("pairs", pairs)
                .set("interleaved", usize::from(interleaved));
        },
        &resources,
        [Extent::Fixed(count), Extent::Tokens(1)],
        (Scope::Step, When::Always),
    )
}
