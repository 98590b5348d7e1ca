//! `expert_norm`: `y_e = w_e * rms(n(x))` for each chosen expert `e` of a token.

use kinglet::models::Norm;
use kinglet::op::{ExpertNorm, Op};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::moe_up::{SHAPES, routes};
use crate::{TOKENS, each};

/// The norm before the experts'.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    Rms,
    RmsWithBias,
    Layer,
}

fn check(
    [experts, top_k, _, _, width]: [usize; 5],
    before: Before,
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!("expert_norm {top_k} of {experts}, {width} wide after {before:?}");
    let mut rig = Rig::new(name, stored, lengths);
    let input = rig.input(width, Random::normal).buffer;
    let tokens = rig.tokens();
    let rows = (0..tokens).map(|_| routes(&mut rig.random, experts, top_k, false)).collect();
    let routes = rig.input_rows(rows).buffer;
    // Epsilons that matter, and differ.
    let norm = match before {
        Before::Nothing => None,
        Before::Rms => Some(rig.norm(width, 1e-2, false)),
        Before::RmsWithBias => Some(rig.norm(width, 1e-2, true)),
        Before::Layer => Some(Norm { centred: true, ..rig.norm(width, 1e-2, true) }),
    };
    let weight = rig.tensor(&[experts, width], |random| 1.0 + 0.3 * random.normal());
    let expert_norm = Norm { weight, ..Norm::new("", width, 0.2) };
    let output = rig.buffer("expert inputs", top_k * width);
    rig.op(Op::ExpertNorm(ExpertNorm { input, norm, routes, top_k, expert_norm, output }));
    rig.check(output);
}

#[test]
fn every_shape() {
    each(SHAPES, TOKENS, |shape, stored, lengths| {
        for before in [Before::Nothing, Before::Rms, Before::RmsWithBias, Before::Layer] {
            check(shape, before, stored, lengths);
        }
    });
}
