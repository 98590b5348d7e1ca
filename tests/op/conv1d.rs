//! `conv1d`: `y_t[c] = silu(b[c] + sum_k w[c,k] x_{t-K+1+k}[c])`, with the last inputs as state.

use kinglet::op::{Conv1d, Op, Slice};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{SEQUENCES, each};

fn check((channels, kernel): (usize, usize), bias: bool, stored: Stored, lengths: &[usize]) {
    check_several((&[channels], kernel), bias, stored, lengths);
}

fn check_several(
    (parts, kernel): (&[usize], usize),
    bias: bool,
    stored: Stored,
    lengths: &[usize],
) {
    let channels: usize = parts.iter().sum();
    let name = format!("conv1d {parts:?} channels, {kernel} taps, bias {bias}");
    let mut rig = Rig::new(name, stored, lengths);
    let (before, after) = (rig.random.between(0, 4), rig.random.between(0, 4));
    let input = rig.input(before + channels + after, Random::normal);
    // Of several, every other one has a bias.
    let convs = parts.iter().enumerate();
    let convs = convs.map(|(i, &part)| rig.conv(part, kernel, bias && i % 2 == 0)).collect();
    let state = rig.state(&[kernel - 1, channels]);
    let output = rig.buffer("y", channels);
    let slice = Slice { buffer: input.buffer, offset: before, width: channels };
    rig.op(Op::Conv1d(Conv1d { input: slice, convs, state, output }));
    rig.check(output);
}

#[test]
fn every_number_of_channels_and_taps() {
    let shapes = [
        (1, 1),
        (1, 4),
        (3, 2),
        (4, 3),
        (16, 4),
        (17, 5),
        (63, 4),
        (65, 1),
        (130, 2),
        (256, 4),
        (257, 3),
        (530, 4),
        (20, 9),
        (6, 30),
    ];
    let mut turn = 0;
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        turn += 1;
        check(shape, turn % 2 == 0, stored, lengths);
    });
}

#[test]
fn sequences_shorter_than_the_taps() {
    for lengths in [&[1][..], &[2], &[1, 3, 2], &[4, 4]] {
        for bias in [false, true] {
            check((19, 4), bias, Stored::F32, lengths);
            check((7, 30), bias, Stored::Bf16, lengths);
        }
    }
}

#[test]
fn several_side_by_side() {
    let shapes: [(&[usize], usize); 4] =
        [(&[1, 1], 2), (&[5, 3, 9], 4), (&[64, 64, 130], 4), (&[300, 7, 1], 3)];
    let mut turn = 0;
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        turn += 1;
        check_several(shape, turn % 2 == 0, stored, lengths);
    });
}
