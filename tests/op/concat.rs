//! `concat`: `y = [x_1 | x_2 | ...]`.

use kinglet::op::{Concat, Op, Strided};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::TOKENS;

fn check(widths: &[usize], lengths: &[usize]) {
    let mut rig = Rig::new(format!("concat {widths:?}"), Stored::F32, lengths);
    let input = |&width: &usize| {
        // Columns of a wider buffer, or every other one.
        let (before, after) = (rig.random.between(0, 4), rig.random.between(0, 4));
        let step = rig.random.between(1, 3);
        let buffer = rig.input(before + step * width + after, Random::normal).buffer;
        Strided { buffer, offset: before, step, width }
    };
    let mut inputs: Vec<Strided> = widths.iter().map(input).collect();
    // One of them twice.
    inputs.extend(inputs.first().copied().filter(|_| inputs.len() > 1));
    let output = rig.buffer("y", inputs.iter().map(|input| input.width).sum());
    rig.op(Op::Concat(Concat { inputs, output }));
    rig.check(output);
}

#[test]
fn every_width() {
    let widths: [&[usize]; 7] = [&[1], &[64], &[65], &[300], &[3, 5], &[64, 1, 130], &[257, 64]];
    for (turn, widths) in widths.into_iter().enumerate() {
        for lengths in TOKENS.iter().cycle().skip(turn).take(3) {
            check(widths, lengths);
        }
    }
}
