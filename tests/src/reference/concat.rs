//! `y = [x_1 | x_2 | ...]`.

use kinglet::op::Concat;

use super::{Pass, Rows};

pub(super) fn concat(op: &Concat, pass: &Pass<'_>) -> Rows {
    let inputs: Vec<Rows> = op.inputs.iter().map(|input| pass.columns(*input)).collect();
    (0..pass.tokens.len()).map(|t| inputs.iter().flat_map(|x| x[t].clone()).collect()).collect()
}
