//! `y = s (W f(x) + b)`, also after an activation, or `y += scale * s (W f(x) + b)`.

use kinglet::op::{Linear, Output, Prologue};

use kinglet::models::GateActivation;

use super::math::{activation, plain_norm, product, sigmoid, silu};
use super::{Pass, Rows};

pub(super) fn linear(op: &Linear, pass: &Pass<'_>) -> Rows {
    let parts: Vec<_> = op.parts.iter().map(|part| pass.values.linear(part)).collect();
    let before = pass.read(op.output.buffer);
    let columns = op.output.offset..op.output.offset + op.output.width;
    let inputs = prologue(&op.prologue, pass.columns(op.input), pass);
    let outputs = inputs.iter().zip(before).map(|(x, before)| {
        // The parts' outputs, concatenated.
        let y: Vec<f64> = parts.iter().flat_map(|part| part.apply(x)).collect();
        let old = &before[columns.clone()];
        let y: Vec<f64> = match op.mode {
            Output::Store => y,
            Output::Activate(act) => y.into_iter().map(|y| activation(act, y)).collect(),
            Output::Add { scale } => {
                old.iter().zip(&y).map(|(x, y)| x + f64::from(scale) * y).collect()
            }
        };
        // The other columns stay as they are.
        [&before[..columns.start], &y, &before[columns.end..]].concat()
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
        Prologue::SigmoidGate { gate } => {
            // A gate for each of equal parts of x.
            let one = |(x, z): (&Vec<f64>, Vec<f64>)| {
                let part = x.len() / z.len();
                x.iter().enumerate().map(|(i, x)| x * sigmoid(z[i / part])).collect()
            };
            x.iter().zip(pass.columns(*gate)).map(one).collect()
        }
        Prologue::GatedNorm { gate, norm, groups } => {
            let weight = pass.values.norm(norm).weight;
            let scale = f64::from(norm.scale);
            let normed = |x: &Vec<f64>| -> Vec<f64> {
                let groups = x.chunks(x.len() / groups);
                groups.flat_map(|group| plain_norm(group, norm.eps)).map(|x| scale * x).collect()
            };
            gated(*gate).iter().map(|x| product(&normed(x), &weight)).collect()
        }
        Prologue::NormGate { norm, groups, gate, activation } => {
            let weight = pass.values.vector(&norm.weight);
            let activation = match activation {
                GateActivation::Silu => silu,
                GateActivation::Sigmoid => sigmoid,
            };
            let gated = |(x, gate): (&Vec<f64>, Vec<f64>)| -> Vec<f64> {
                // A weight for all groups, or one for each.
                let part = x.len() / groups;
                let weights = weight.chunks(part).cycle();
                let groups = x.chunks(part).zip(weights);
                let normed = groups.flat_map(|(g, w)| product(&plain_norm(g, norm.eps), w));
                normed.zip(gate).map(|(x, gate)| x * activation(gate)).collect()
            };
            x.iter().zip(pass.columns(*gate)).map(gated).collect()
        }
    }
}
