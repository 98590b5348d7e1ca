//! `y = [x_1 | x_2 | ...]`.

use kinglet::op::{Concat, Strided};

use super::{Pass, Rows};

pub(super) fn concat(op: &Concat, pass: &Pass<'_>) -> Rows {
    let columns = |input: &Strided| -> Rows {
        let column = |row: &Vec<f64>, i: usize| row[input.offset + input.step * i];
        let rows = pass.read(input.buffer).iter();
        rows.map(|row| (0..input.width).map(|i| column(row, i)).collect()).collect()
    };
    let inputs: Vec<Rows> = op.inputs.iter().map(columns).collect();
    (0..pass.tokens.len()).map(|t| inputs.iter().flat_map(|x| x[t].clone()).collect()).collect()
}
