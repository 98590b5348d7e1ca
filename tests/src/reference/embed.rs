//! `x = scale * E[token]`.

use kinglet::op::Embed;

use super::{Pass, Rows};

pub(super) fn embed(op: &Embed, pass: &Pass<'_>) -> Rows {
    let scale = f64::from(op.scale);
    let table = op.table.as_ref().expect("tokens have rows in a table");
    let row = |token: u32| pass.values.row(table, token as usize);
    pass.tokens.iter().map(|&t| row(t).iter().map(|e| scale * e).collect()).collect()
}
