//! Which input each matrix of a plan reads.

use std::collections::HashMap;

use kinglet_models::Matrix;

use crate::cpu::observe::{Part, Site};
use crate::op::Op;
use crate::plan::Plan;

/// What a matrix reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reads {
    /// Its input.
    pub site: Site,
    /// Where `site` is that of the tokens that an expert sees: the same input of all tokens.
    pub all: Option<Site>,
    /// Elements of the input.
    pub cols: usize,
}

/// By tensor and first row. A table that is the head's matrix too reads what the head does.
pub(super) fn reads(plan: &Plan) -> HashMap<(String, usize), Reads> {
    let mut found = HashMap::new();
    for (index, op) in plan.ops.iter().enumerate() {
        let every = Site { op: index, part: Part::All };
        let mut add = |matrix: &Matrix, site, all| {
            let key = (matrix.tensor.name.clone(), matrix.row_offset);
            found.insert(key, Reads { site, all, cols: matrix.cols });
        };
        match op {
            Op::Linear(op) => op.parts.iter().for_each(|part| add(&part.weight, every, None)),
            Op::GatedLinear(op) => {
                [&op.gate, &op.up].into_iter().for_each(|part| add(&part.weight, every, None));
            }
            Op::MoeUp(op) => {
                for (expert, (gate, up)) in op.experts.iter().enumerate() {
                    let site = Site { op: index, part: Part::Expert(expert) };
                    [gate, up].into_iter().for_each(|matrix| add(matrix, site, Some(every)));
                }
                if let Some((gate, up)) = &op.shared {
                    [gate, up].into_iter().for_each(|matrix| add(matrix, every, None));
                }
            }
            Op::MoeDown(op) => {
                // What an expert makes of its input means nothing to another: they have no input in common.
                for (expert, down) in op.experts.iter().enumerate() {
                    add(down, Site { op: index, part: Part::Expert(expert) }, None);
                }
                op.shared.iter().for_each(|down| add(down, every, None));
            }
            Op::Head(op) => add(&op.linear.weight, every, None),
            Op::Embed(_)
            | Op::Attention(_)
            | Op::Conv1d(_)
            | Op::MambaScan(_)
            | Op::Mamba2Scan(_)
            | Op::MLstmScan(_)
            | Op::MoeRoute(_) => {}
        }
    }
    found
}
