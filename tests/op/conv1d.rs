//! `conv1d`: `y_t[c] = C_t[c] act(b[c] + sum_k w[c,k] u_{t-K+1+k}[c])`, `u_t[c] = B_t[c] x_t[c]`, with the last `u` as state.

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
    rig.op(Op::Conv1d(Conv1d {
        input: slice,
        input_gate: None,
        convs,
        silu: true,
        output_gate: None,
        state,
        output,
    }));
    rig.check(output);
}

/// Which gates and activation there are, and whether the gates are columns of the buffer that holds the input.
#[derive(Clone, Copy, Debug)]
struct Form {
    input_gate: bool,
    silu: bool,
    output_gate: bool,
    one_buffer: bool,
}

const LFM2: Form = Form { input_gate: true, silu: false, output_gate: true, one_buffer: true };

const FORMS: [Form; 6] = [
    LFM2,
    Form { one_buffer: false, ..LFM2 },
    Form { output_gate: false, ..LFM2 },
    Form { input_gate: false, ..LFM2 },
    Form { input_gate: false, output_gate: false, ..LFM2 },
    Form { silu: true, one_buffer: false, ..LFM2 },
];

fn check_gated(
    (channels, kernel): (usize, usize),
    form: Form,
    bias: bool,
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!("conv1d {channels} channels, {kernel} taps, bias {bias}, {form:?}");
    let mut rig = Rig::new(name, stored, lengths);
    // B, C and x side by side, as LFM2 projects them, or each in a wider buffer of its own.
    let [gate_before, gate_after, input] = match form.one_buffer {
        true => {
            let buffer = rig.input(3 * channels, Random::normal).buffer;
            [0, channels, 2 * channels].map(|offset| Slice { buffer, offset, width: channels })
        }
        false => [0, 3, 5].map(|offset| {
            let buffer = rig.input(offset + channels + 1, Random::normal).buffer;
            Slice { buffer, offset, width: channels }
        }),
    };
    let conv = rig.conv(channels, kernel, bias);
    let state = rig.state(&[kernel - 1, channels]);
    let output = rig.buffer("y", channels);
    rig.op(Op::Conv1d(Conv1d {
        input,
        input_gate: form.input_gate.then_some(gate_before),
        convs: vec![conv],
        silu: form.silu,
        output_gate: form.output_gate.then_some(gate_after),
        state,
        output,
    }));
    rig.check(output);
}

#[test]
fn gates_and_activation() {
    let mut turn = 0;
    for shape in [(1, 1), (19, 3), (65, 2), (257, 3), (530, 7), (6, 30)] {
        for form in FORMS {
            let lengths = SEQUENCES[turn % SEQUENCES.len()];
            let stored = Stored::ALL[turn % Stored::ALL.len()];
            turn += 1;
            check_gated(shape, form, turn % 2 == 0, stored, lengths);
        }
    }
}

#[test]
fn gated_sequences_shorter_than_the_taps() {
    for lengths in [&[1][..], &[2], &[1, 3, 2], &[4, 4]] {
        for form in FORMS {
            check_gated((19, 4), form, false, Stored::F32, lengths);
            check_gated((7, 30), form, true, Stored::F32, lengths);
        }
    }
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
