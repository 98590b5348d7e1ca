//! `x += P[t]` for a token at position `t`, with a learned table or with sines.

use kinglet::models;
use kinglet::op::Positions;

use super::{Pass, Rows};

pub(super) fn positions(op: &Positions, pass: &Pass<'_>) -> Rows {
    let added = |t: usize, width: usize| match &op.table {
        models::Positions::Learned(table) => pass.values.row(table, t),
        models::Positions::Sinusoidal => (0..width).map(|k| sine(t, k, width)).collect(),
    };
    let one = |(t, x): (usize, &Vec<f64>)| {
        x.iter().zip(added(t, x.len())).map(|(x, added)| x + added).collect()
    };
    pass.read(op.output).iter().enumerate().map(one).collect()
}

/// Column `k`: sines in the first half, cosines in the second.
fn sine(t: usize, k: usize, width: usize) -> f64 {
    let half = width / 2;
    let angle = t as f64 / 10000f64.powf(2.0 * (k % half) as f64 / width as f64);
    if k < half { angle.sin() } else { angle.cos() }
}
