//! `gated_linear`: `h = act(G n(x) + b_g) * (U n(x) + b_u)`.

use kinglet::models::Activation;
use kinglet::op::{GatedLinear, Op};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

fn check(
    act: Activation,
    (inner, hidden): (usize, usize),
    bias: bool,
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!("gated_linear {act:?} {inner} x {hidden} bias {bias}");
    let mut rig = Rig::new(name, stored, lengths);
    let input = rig.input(hidden, Random::normal);
    let norm = rig.norm(hidden, 1e-5, bias);
    // Of some widths the input is as it is.
    let norm = Some(norm).filter(|_| hidden % 3 != 2);
    let gate = rig.linear(inner, hidden, bias);
    // Gate and up are separate tensors of any types.
    rig.stored = Stored::ALL[(inner + hidden) % 3];
    let up = rig.linear(inner, hidden, bias);
    let added = (inner % 3 == 0).then(|| rig.input(2 * inner, Random::normal).buffer);
    let output = rig.buffer("h", inner);
    let input_id = input.buffer;
    rig.op(Op::GatedLinear(GatedLinear {
        input: input_id,
        norm,
        gate,
        up,
        added,
        activation: act,
        output,
    }));
    rig.check(output);
}

#[test]
fn every_activation_and_shape() {
    use Activation::{Gelu, GeluTanh, Relu, Relu2, Silu};
    let shapes = [(1, 1), (3, 5), (16, 8), (33, 31), (64, 96), (130, 65), (257, 40), (90, 514)];
    for act in [Silu, Gelu, GeluTanh, Relu, Relu2] {
        each(&shapes, TOKENS, |shape, stored, lengths| {
            check(act, shape, shape.0 % 2 == 0, stored, lengths);
        });
    }
}

#[test]
fn every_number_of_tokens_around_the_tiles() {
    for tokens in 1..=14 {
        check(Activation::Silu, (37, 45), true, Stored::ALL[tokens % 3], &[tokens]);
    }
}

#[test]
fn far_out_gates_stay_finite() {
    // Gates of several hundred: exp overflows unless it is guarded.
    for act in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let mut rig = Rig::new(format!("gated_linear {act:?} far out"), Stored::F32, &[33]);
        let input = rig.input(20, Random::normal);
        let mut norm = rig.norm(20, 1e-5, false);
        norm.weight = rig.tensor(&[20], |random| 300.0 * random.normal());
        let gate = rig.linear(35, 20, false);
        let up = rig.linear(35, 20, false);
        let output = rig.buffer("h", 35);
        let input_id = input.buffer;
        rig.op(Op::GatedLinear(GatedLinear {
            input: input_id,
            norm: Some(norm),
            gate,
            up,
            added: None,
            activation: act,
            output,
        }));
        rig.check(output);
    }
}
