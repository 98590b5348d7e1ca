//! `y = W f(x) + b`, or `y += scale * (W f(x) + b)`.

use kinglet::op::{Linear, Output, Prologue};

use super::math::{plain_norm, product, sigmoid, silu};
use super::{Pass, Rows};

pub(super) fn linear(op: &Linear, pass: &Pass<'_>) -> Rows {
    let parts: Vec<_> = op.parts.iter().map(|part| pass.values.linear(part)).collect();
    let before = pass.read(op.output);
    let inputs = prologue(&op.prologue, pass.columns(op.input), pass);
    let outputs = inputs.iter().zip(before).map(|(x, before)| {
        // The parts' outputs, concatenated.
        let y: Vec<f64> = parts.iter().flat_map(|part| part.apply(x)).collect();
        match op.mode {
            Output::Store => y,
            Output::Add { scale } => {
                before.iter().zip(&y).map(|(x, y)| x + f64::from(scale) * y).collect()
            }
        }
    });
    outputs.collect()
}

/// `f(x)`.
fn prologue(prologue: &Prologue, x: Rows, pass: &Pass<'_>) -> Rows {
    // x * silu(z)
    let gated = |gate| -> Rows {
        let pairs = x.iter().zip(pass.columns(gate));
        pairs.map(|(x, z)| product(x, &z.into_iter().map(silu).collect::<Vec<_>>())).collect()
    };
    match prologue {
        Prologue::None => x,
        Prologue::Norm(norm) => {
            let n = pass.values.norm(norm);
            x.iter().map(|x| n.apply(x)).collect()
        }
        Prologue::PlainNorm { eps } => x.iter().map(|x| plain_norm(x, *eps)).collect(),
        Prologue::SiluGate { gate } => gated(*gate),
        Prologue::NormThenGate { norm, gate } => {
            let n = pass.values.norm(norm);
            let gates = pass.columns(*gate);
            let gated = |(x, z): (&Vec<f64>, Vec<f64>)| {
                product(&n.apply(x), &z.into_iter().map(sigmoid).collect::<Vec<_>>())
            };
            x.iter().zip(gates).map(gated).collect()
        }
        Prologue::GatedNorm { gate, norm, groups } => {
            let weight = pass.values.vector(&norm.weight);
            let normed = |x: &Vec<f64>| -> Vec<f64> {
                let groups = x.chunks(x.len() / groups);
                groups.flat_map(|group| plain_norm(group, norm.eps)).collect()
            };
            gated(*gate).iter().map(|x| product(&normed(x), &weight)).collect()
        }
    }
}
