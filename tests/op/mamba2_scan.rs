//! `mamba2_scan`: `[x | B | C]` convolved; for head `h` of group `g`: `dt = clamp(softplus(dt + dt_bias))`,
//! `a = exp(-exp(a_log) dt)`, `S = a S + dt B x^T`, `y = C^T S + d x`.

use kinglet::op::{Mamba2Scan, Op};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{FEW, SEQUENCES, each};

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    head_dim: usize,
    groups: usize,
    state_dim: usize,
    kernel: usize,
}

const fn shape(
    heads: usize,
    head_dim: usize,
    groups: usize,
    state_dim: usize,
    kernel: usize,
) -> Shape {
    Shape { heads, head_dim, groups, state_dim, kernel }
}

/// Further choices.
#[derive(Clone, Copy, Debug)]
struct Steps {
    name: &'static str,
    /// Mean and spread of the step sizes before the softplus.
    dt: (f64, f64),
    limit: (f32, f32),
}

const USUAL: Steps = Steps { name: "usual", dt: (-1.0, 1.5), limit: (0.0, f32::INFINITY) };

fn check(shape: Shape, steps: Steps, bias: bool, stored: Stored, lengths: &[usize]) {
    let Shape { heads, head_dim, groups, state_dim, kernel } = shape;
    let name = format!("mamba2_scan {shape:?} {} bias {bias}", steps.name);
    let mut rig = Rig::new(name, stored, lengths).bound(2.0);
    let inner = heads * head_dim;
    let channels = inner + 2 * groups * state_dim;
    let first_dt = inner + channels;
    let (mean, spread) = steps.dt;
    let mut column = 0;
    let width = first_dt + heads;
    let input = rig.input(width, |random| {
        let is_dt = column % width >= first_dt;
        column += 1;
        if is_dt { mean + spread * random.normal() } else { random.normal() }
    });
    let conv = rig.conv(channels, kernel, bias);
    let a_log = rig.tensor(&[heads], |random| random.uniform(-2.0, 2.8));
    let d = rig.tensor(&[heads], Random::normal);
    let dt_bias = rig.tensor(&[heads], Random::normal);
    let conv_state = rig.state(&[kernel - 1, channels]);
    let state = rig.state(&[heads, state_dim, head_dim]);
    let output = rig.buffer("y", inner);
    rig.op(Op::Mamba2Scan(Mamba2Scan {
        input: input.buffer,
        conv,
        a_log,
        d,
        dt_bias,
        dt_limit: steps.limit,
        heads,
        head_dim,
        groups,
        state_dim,
        conv_state,
        state,
        output,
    }));
    rig.check(output);
}

#[test]
fn every_shape() {
    let shapes = [
        shape(1, 1, 1, 1, 1),
        shape(2, 3, 1, 5, 2),
        shape(3, 4, 3, 7, 4),
        shape(4, 16, 2, 16, 4),
        shape(6, 17, 2, 33, 3),
        shape(2, 64, 1, 64, 4),
        shape(1, 80, 1, 130, 4),
        shape(8, 8, 8, 20, 4),
        shape(5, 65, 1, 9, 5),
        shape(24, 3, 4, 3, 4),
    ];
    let mut turn = 0;
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        turn += 1;
        check(shape, USUAL, turn % 2 == 0, stored, lengths);
    });
}

#[test]
fn few_tokens() {
    for shape in [shape(6, 17, 2, 33, 3), shape(4, 16, 2, 70, 4)] {
        for lengths in FEW {
            check(shape, USUAL, true, Stored::F32, lengths);
        }
    }
}

#[test]
fn shapes_of_real_models_and_beyond_a_pass() {
    for shape in [shape(2, 64, 1, 128, 4), shape(1, 20, 1, 300, 4), shape(1, 7, 1, 260, 2)] {
        for lengths in [&[4][..], &[1, 3], &[70]] {
            check(shape, USUAL, true, Stored::F32, lengths);
        }
    }
}

#[test]
fn every_length_around_a_chunk() {
    for length in [2, 7, 10, 63, 66, 127, 128, 129, 193] {
        check(shape(2, 9, 1, 11, 4), USUAL, true, Stored::F32, &[length]);
    }
}

#[test]
fn step_sizes_from_nearly_none_to_long_and_clamped() {
    let unlimited = (0.0, f32::INFINITY);
    let all = [
        Steps { name: "tiny steps", dt: (-20.0, 1.0), limit: unlimited },
        Steps { name: "long steps", dt: (40.0, 10.0), limit: unlimited },
        Steps { name: "mixed steps", dt: (0.0, 25.0), limit: unlimited },
        Steps { name: "clamped steps", dt: (-1.0, 2.0), limit: (0.2, 0.7) },
        Steps { name: "clamped below", dt: (-3.0, 2.0), limit: (0.1, f32::INFINITY) },
    ];
    for steps in all {
        for lengths in [&[5][..], &[64], &[130], &[9, 70]] {
            check(shape(4, 12, 2, 10, 4), steps, true, Stored::F32, lengths);
        }
    }
}
