//! `slstm_scan` on a GPU: one launch, in which a workgroup takes a head through all tokens of a run.

use kinglet_models::{CellGating, ForgetGate};
use kinglet_shaders::{Kernel, WeightType};

use super::builder::{Builder, Vectors};
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::op;

/// Threads of a workgroup.
const THREADS: usize = 256;
/// Most channels of a head that a workgroup has memory for.
const MAX_HEAD: usize = 2048;
/// Fewest channels between threads that share one.
const LEAST_SPAN: usize = 16;

pub(super) fn add(op: &op::SLstmScan, builder: &mut Builder<'_>) -> Result<(), Error> {
    let (heads, dim) = (op.heads, op.head_dim);
    if dim > MAX_HEAD {
        let (needed, limit) = (dim as u64, MAX_HEAD as u64);
        return Err(Error::DeviceLimit {
            what: "the width of an sLSTM head".into(),
            needed,
            limit,
        });
    }
    let mut vectors = Vectors::default();
    let weight = vectors.push(&builder.weights.norm_weight(&op.cell_norm)?);
    let vectors = builder.vectors(&vectors)?;
    let recurrent = match &op.recurrent {
        Some(all) => {
            let mut by_element = Vectors::default();
            by_element.push(&by_element_of_h(&builder.weights.vector(all)?, dim));
            builder.vectors(&by_element)?
        }
        // Bound, but not read.
        None => vectors,
    };
    let resources = [
        ("input", builder.buffer(op.input)),
        ("recurrent", recurrent),
        ("vectors", vectors),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
    ];
    let (sigmoid, exponential) = match op.gating {
        CellGating::Sigmoid => (true, false),
        CellGating::Exponential(ForgetGate::Sigmoid) => (false, false),
        CellGating::Exponential(ForgetGate::Exponential) => (false, true),
    };
    builder.launch(
        Kernel::SLstmScan,
        WeightType::F32,
        |builder, params| {
            params
                .set("heads", heads)
                .set("head_dim", dim)
                .set("span", dim.next_power_of_two().clamp(LEAST_SPAN, THREADS))
                .set("input_stride", builder.width(op.input))
                .set("output_stride", builder.width(op.output))
                .set("mixes", usize::from(op.recurrent.is_some()))
                .set("sigmoid_gates", usize::from(sigmoid))
                .set("exponential_forget", usize::from(exponential))
                .set_u32("weight", weight)
                .set_f32("eps", op.cell_norm.eps);
        },
        &resources,
        [Extent::Fixed(heads), Extent::Fixed(1)],
        (Scope::Runs, When::Always),
    )
}

/// `[heads, head_dim, head_dim, 4]`, by element of `h`, channel and gate, from `[heads, 4, head_dim, head_dim]`, by gate, channel and element.
fn by_element_of_h(recurrent: &[f32], dim: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(recurrent.len());
    for head in recurrent.chunks_exact((4 * dim * dim).max(1)) {
        for k in 0..dim {
            for e in 0..dim {
                all.extend((0..4).map(|gate| head[(gate * dim + e) * dim + k]));
            }
        }
    }
    all
}
