//! `mamba_scan`: `h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c]`,
//! `y[c] = (sum_n C[n] h[c,n] + d[c] x[c]) * silu(z[c])`.

use kinglet::op::{BcNorm, MambaScan, Op, Slice};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{SEQUENCES, each};

/// Distribution of the step sizes before the softplus.
type Draw = fn(&mut Random) -> f64;

fn check(
    (inner, state_dim): (usize, usize),
    norm: Option<(f32, bool)>,
    (name, draw_dt): (&str, Draw),
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!("mamba_scan {inner} x {state_dim} {name} norm {norm:?}");
    let mut rig = Rig::new(name, stored, lengths).bound(2.0);
    let x = rig.input(inner, Random::normal);
    let z_offset = rig.random.between(0, 7);
    let z = rig.input(z_offset + inner + 2, Random::normal);
    let dt = rig.input(inner, draw_dt);
    // B and C are adjacent after other columns, as they are after the low-rank step sizes.
    let b_offset = rig.random.between(0, 5);
    let c_offset = b_offset + state_dim;
    // Where the channels can be split, two or three heads, each with its columns.
    let heads =
        [3, 2].into_iter().find(|heads| inner % heads == 0 && lengths.len() != 2).unwrap_or(1);
    let head_stride = c_offset + state_dim + 1;
    let bc = rig.input(heads * head_stride, Random::normal);
    let a_log = rig.tensor(&[inner, state_dim], |random| random.uniform(-1.0, 2.8));
    let d = rig.tensor(&[inner], Random::normal);
    let bc_norm = norm.map(|(eps, weighted)| {
        let mut weight = || rig.tensor(&[state_dim], |random| 1.0 + 0.3 * random.normal());
        BcNorm { eps, weights: weighted.then(|| [weight(), weight()]) }
    });
    let state = rig.state(&[state_dim, inner]);
    let output = rig.buffer("y", inner);
    rig.op(Op::MambaScan(MambaScan {
        x: x.buffer,
        z: Slice { buffer: z.buffer, offset: z_offset, width: inner },
        dt: dt.buffer,
        b: Slice { buffer: bc.buffer, offset: b_offset, width: state_dim },
        c: Slice { buffer: bc.buffer, offset: c_offset, width: state_dim },
        heads,
        head_stride,
        bc_norm,
        a_log,
        d,
        inner,
        state_dim,
        state,
        output,
    }));
    rig.check(output);
}

const USUAL: (&str, Draw) = ("usual", |random| -2.0 + 1.5 * random.normal());

#[test]
fn every_width_and_state() {
    let shapes = [
        (1, 1),
        (3, 2),
        (8, 16),
        (17, 16),
        (63, 5),
        (64, 4),
        (65, 16),
        (130, 3),
        (257, 8),
        (20, 33),
        (6, 128),
    ];
    let mut turn = 0;
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        turn += 1;
        let norm = (turn % 3 > 0).then_some((1e-3, turn % 3 == 2));
        check(shape, norm, USUAL, stored, lengths);
    });
}

#[test]
fn step_sizes_from_nearly_none_to_long() {
    // With tiny steps the state forgets nothing; with large ones it forgets everything at once.
    let draws: [(&str, Draw); 3] = [
        ("tiny steps", |random| -20.0 + random.normal()),
        ("long steps", |random| 30.0 + 10.0 * random.normal()),
        ("mixed steps", |random| 25.0 * random.normal()),
    ];
    for draw in draws {
        for lengths in [&[64][..], &[130], &[9, 70]] {
            check((33, 16), None, draw, Stored::F32, lengths);
        }
    }
}
