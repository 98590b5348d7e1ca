//! `mlstm_scan` on a GPU: one dispatch for few tokens, five for many. Behind few, norm and gate of the heads are left to the projection that
//! follows, where it can do that.

use kinglet_shaders::Kernel;

use super::builder::{Builder, Vectors};
use super::projection;
use super::recording::{Extent, Resource, Scope, When};
use crate::Error;
use crate::plan::Plan;
use crate::plan::op::{self, BufferId, Op, Prologue, Slice};

/// Most elements of a value that the kernels' threads have registers for.
pub(super) const MAX_VALUE: usize = 2048;
/// Columns of a head's memory that a workgroup takes for few tokens.
pub(super) const COLUMNS: usize = 16;
/// Threads of the kernel that goes element by element.
pub(super) const THREADS: usize = 256;
/// Rows and columns of a tile of products.
pub(super) const SIDE: usize = 64;

pub(super) fn add(op: &op::MLstmScan, builder: &mut Builder<'_>) -> Result<(), Error> {
    if op.v_head_dim > MAX_VALUE {
        let (needed, limit) = (op.v_head_dim as u64, MAX_VALUE as u64);
        return Err(Error::DeviceLimit { what: "mLSTM's width of values".into(), needed, limit });
    }
    let mut vectors = Vectors::default();
    let norm_weight = builder.vector(&mut vectors, &op.head_norm.weight)?;
    let norm_bias = builder.optional(&mut vectors, op.head_norm.bias.as_ref())?;
    let vectors = builder.vectors(&vectors)?;
    let is_left = is_left(builder.plan, op);
    let scratch = builder.memory.scratch;
    // Each kernel binds some of these.
    let resources = [
        ("input", builder.buffer(op.input)),
        ("vectors", vectors),
        ("state", Resource::State(op.state, 0)),
        ("output", builder.buffer(op.output)),
        ("scores", Resource::Memory(scratch.squares)),
        ("added", Resource::Memory(scratch.states)),
        ("states", Resource::Memory(scratch.states)),
        ("numbers", Resource::Memory(scratch.chunks)),
    ];
    let mut form = |kernel: Kernel, groups: [Extent; 2], when: When| {
        let stored = builder.state_type(op.state);
        builder.launch(
            kernel,
            stored,
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
            &resources,
            groups,
            (Scope::Run, when),
        )
    };
    let fixed = Extent::Fixed;
    let step = [fixed(op.heads), fixed(op.v_head_dim.div_ceil(COLUMNS))];
    form(Kernel::MLstmStep, step, When::Few)?;
    let (down, across) = (op.qk_head_dim.div_ceil(SIDE), op.v_head_dim.div_ceil(SIDE));
    for (kernel, groups) in [
        (Kernel::MLstmScores, [fixed(op.heads), Extent::Tiles(SIDE)]),
        (Kernel::MLstmStates, [fixed(op.heads * down * across), Extent::Tiles(SIDE)]),
        (Kernel::MLstmPass, [fixed(op.head_state().div_ceil(THREADS)), fixed(op.heads)]),
        (Kernel::MLstmOutputs, [fixed(op.heads * across), Extent::Tiles(SIDE)]),
    ] {
        form(kernel, groups, When::Many)?;
    }
    // A run of few tokens in a step of many is finished here, too: the projection takes all of the step's tokens alike.
    let when = if is_left { When::ManyOfStep } else { When::Always };
    form(Kernel::MLstmFinish, [fixed(op.heads), Extent::Tokens(1)], when)
}

/// The scan whose norm and gate are left to `linear` where it takes few tokens: it comes right before.
pub(super) fn left_to<'p>(plan: &'p Plan, linear: &op::Linear) -> Option<&'p op::MLstmScan> {
    plan.ops.windows(2).find_map(|pair| match pair {
        [Op::MLstmScan(scan), Op::Linear(next)] if std::ptr::eq(next, linear) => {
            takes_over(plan, next, scan).then_some(scan)
        }
        _ => None,
    })
}

/// Whether the projection behind `scan` does what is left of it.
fn is_left(plan: &Plan, scan: &op::MLstmScan) -> bool {
    plan.ops.windows(2).any(|pair| match pair {
        [Op::MLstmScan(first), Op::Linear(next)] => {
            std::ptr::eq(first, scan) && takes_over(plan, next, scan)
        }
        _ => false,
    })
}

fn takes_over(plan: &Plan, linear: &op::Linear, scan: &op::MLstmScan) -> bool {
    let whole = Slice { buffer: scan.output, offset: 0, width: scan.heads * scan.v_head_dim };
    let readers = plan.ops.iter().filter(|op| op.uses().reads.contains(&scan.output)).count();
    let slot = |buffer: BufferId| plan.buffers.get(buffer.0).map(|buffer| buffer.slot);
    linear.prologue == Prologue::None
        && linear.input == whole
        && readers == 1
        // The gate, which is in the scan's input, must still be there.
        && slot(linear.output) != slot(scan.input)
        && scan.heads <= projection::MAX_HEADS
}
