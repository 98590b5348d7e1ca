//! Finds the input of each matrix in a plan.

#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;

use crate::backend::cpu::observe::Site;
use crate::plan::Plan;
use crate::plan::op::{InputPart, MatrixSite};

/// The input of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reads {
    /// Where the input is observed.
    pub site: Site,
    /// If `site` covers only an expert's tokens: the same input over all tokens.
    pub all: Option<Site>,
    /// Width of the input.
    pub cols: usize,
}

/// Inputs by tensor and first row. A table that is also the head's matrix has the head's input.
pub(super) fn reads(plan: &Plan) -> HashMap<(String, usize), Reads> {
    let mut found = HashMap::new();
    for (index, op) in plan.ops.iter().enumerate() {
        for MatrixSite { matrix, part, also_all } in op.description().sites() {
            let site = Site { op: index, part };
            let all = also_all.then_some(Site { op: index, part: InputPart::All });
            let key = (matrix.tensor.name.clone(), matrix.row_offset);
            // A matrix that layers share is observed as of the first: see `Observer`.
            found.entry(key).or_insert(Reads { site, all, cols: matrix.cols });
        }
    }
    found
}
