//! For each head `y_h = W_h x_h`, or `y_h = W_h^T x_h`, beside what is carried along.

use kinglet::op::HeadLinear;

use super::{Pass, Rows};

pub(super) fn head_linear(op: &HeadLinear, pass: &Pass<'_>) -> Rows {
    let matrices: Vec<_> = op.heads.iter().map(|matrix| pass.values.matrix(matrix)).collect();
    let one = |row: Vec<f64>| -> Vec<f64> {
        let heads = row.chunks(row.len() / matrices.len()).zip(&matrices);
        let head = |(row, matrix): (&[f64], &super::Linear)| -> Vec<f64> {
            let (x, carried) = row.split_at(row.len() - op.carried);
            let y = if op.transposed {
                let column = |c: usize| x.iter().enumerate().map(move |(r, x)| (r, c, x));
                let sum = |c: usize| -> f64 {
                    column(c).map(|(r, c, x)| x * matrix.weight[r * matrix.cols + c]).sum()
                };
                (0..matrix.cols).map(sum).collect()
            } else {
                matrix.apply(x)
            };
            [&y, carried].concat()
        };
        heads.flat_map(head).collect()
    };
    pass.columns(op.input).into_iter().map(one).collect()
}
