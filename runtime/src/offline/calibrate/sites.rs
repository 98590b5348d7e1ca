//! Which input each matrix of a plan reads.

#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use crate::backend::cpu::observe::Site;
use crate::plan::Plan;
use crate::plan::op::{InputPart, MatrixSite};

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
        for MatrixSite { matrix, part, also_all } in op.description().sites() {
            let site = Site { op: index, part };
            let all = also_all.then_some(Site { op: index, part: InputPart::All });
            let key = (matrix.tensor.name.clone(), matrix.row_offset);
            found.insert(key, Reads { site, all, cols: matrix.cols });
        }
    }
    found
}
