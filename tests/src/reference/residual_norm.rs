//! `x = scale * norm(x)`, or `x += scale * norm(branch)`.

use kinglet::op::ResidualNorm;

use super::{Pass, Rows};

pub(super) fn residual_norm(op: &ResidualNorm, pass: &Pass<'_>) -> Rows {
    let (norm, scale) = (pass.values.norm(&op.norm), f64::from(op.scale));
    let stream = pass.read(op.stream);
    let scaled = |x: &Vec<f64>| norm.apply(x).into_iter().map(|x| scale * x).collect::<Vec<_>>();
    let Some(branch) = op.branch else { return stream.iter().map(scaled).collect() };
    let pairs = stream.iter().zip(pass.read(branch));
    let sum = |(x, branch)| -> Vec<f64> {
        let x: &Vec<f64> = x;
        x.iter().zip(scaled(branch)).map(|(x, added)| x + added).collect()
    };
    pairs.map(sum).collect()
}
