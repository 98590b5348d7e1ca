//! `residual_norm`: `x = scale * norm(x)`, or `x += scale * norm(branch)`.

use kinglet::models::Norm;
use kinglet::op::{Op, ResidualNorm};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

fn check(
    width: usize,
    has_branch: bool,
    bias: bool,
    centred: bool,
    stored: Stored,
    lengths: &[usize],
) {
    let name =
        format!("residual_norm {width} wide, branch {has_branch}, bias {bias}, centred {centred}");
    let mut rig = Rig::new(name, stored, lengths);
    let stream = rig.input(width, Random::normal).buffer;
    // Far from 1, so that a norm of the wrong vector shows.
    let branch = has_branch.then(|| rig.input(width, |random| 20.0 * random.normal()).buffer);
    let norm = Norm { centred, ..rig.norm(width, 1e-3, bias) };
    rig.op(Op::ResidualNorm(ResidualNorm { stream, branch, norm, scale: 0.7 }));
    rig.check(stream);
}

#[test]
fn every_width() {
    let mut turn = 0;
    each(&[1, 3, 16, 63, 64, 65, 257, 1030], TOKENS, |width, stored, lengths| {
        for has_branch in [false, true] {
            turn += 1;
            check(width, has_branch, turn % 3 == 0, turn % 4 < 2, stored, lengths);
        }
    });
}
