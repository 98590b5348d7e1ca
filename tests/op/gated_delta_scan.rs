//! `gated_delta_scan`: `q` and `k` of unit length, `beta = beta_scale sigmoid(b)`, `g = -exp(a_log) softplus(a + dt_bias)`;
//! `S = diag(e^g) S`, `S = S + k (beta (v - S^T k))^T`, `y = S^T q / sqrt(key_dim)`; one decay a head, or one a channel of its keys.

use kinglet::op::{GatedDeltaScan, Op, Slice};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{FEW, SEQUENCES, each};

#[derive(Clone, Copy, Debug)]
struct Shape {
    key_heads: usize,
    value_heads: usize,
    key_dim: usize,
    value_dim: usize,
}

const fn shape(key_heads: usize, value_heads: usize, key_dim: usize, value_dim: usize) -> Shape {
    Shape { key_heads, value_heads, key_dim, value_dim }
}

/// How the gates are drawn: mean and spread before the softplus of decays and the sigmoid of betas.
#[derive(Clone, Copy, Debug)]
struct Gates {
    name: &'static str,
    decay: (f64, f64),
    beta: (f64, f64),
    beta_scale: f32,
    /// Mean of queries and keys: where it is large, all keys of a chunk are nearly the same one.
    qk: f64,
    /// Factor on the bound.
    bound: f64,
}

const USUAL: Gates = Gates {
    name: "usual",
    decay: (-2.0, 1.5),
    beta: (0.0, 1.5),
    beta_scale: 1.0,
    qk: 0.0,
    bound: 2.0,
};

fn check(shape: Shape, gates: Gates, per_channel: bool, stored: Stored, lengths: &[usize]) {
    let Shape { key_heads, value_heads, key_dim, value_dim } = shape;
    let name = format!("gated_delta_scan {shape:?} {} per channel {per_channel}", gates.name);
    let mut rig = Rig::new(name, stored, lengths).bound(gates.bound);
    let keys = 2 * key_heads * key_dim;
    let width = keys + value_heads * value_dim;
    let mut column = 0;
    let qkv = rig.input(width, |random| {
        let mean = if column % width < keys { gates.qk } else { 0.0 };
        column += 1;
        mean + random.normal()
    });
    // Decays and betas lie side by side in a wider buffer.
    let decays = value_heads * if per_channel { key_dim } else { 1 };
    let width = 3 + decays + value_heads;
    let mut column = 0;
    let gate = rig.input(width, |random| {
        let (mean, spread) = if column % width < 3 + decays { gates.decay } else { gates.beta };
        column += 1;
        mean + spread * random.normal()
    });
    let a_log = rig.tensor(&[value_heads], |random| random.uniform(-2.0, 2.8));
    let dt_bias = rig.tensor(&[decays], Random::normal);
    let state = rig.state(&[value_heads, key_dim, value_dim]);
    let output = rig.buffer("y", value_heads * value_dim);
    rig.op(Op::GatedDeltaScan(GatedDeltaScan {
        qkv: qkv.buffer,
        decay: Slice { buffer: gate.buffer, offset: 3, width: decays },
        beta: Slice { buffer: gate.buffer, offset: 3 + decays, width: value_heads },
        a_log,
        dt_bias,
        per_channel,
        beta_scale: gates.beta_scale,
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        norm_eps: 1e-6,
        state,
        output,
    }));
    rig.check(output);
}

#[test]
fn every_shape() {
    let shapes = [
        shape(1, 1, 1, 1),
        shape(1, 2, 3, 5),
        shape(2, 6, 4, 7),
        shape(2, 4, 16, 16),
        shape(3, 3, 17, 33),
        shape(1, 1, 64, 64),
        shape(1, 2, 70, 20),
        shape(2, 2, 33, 130),
        shape(5, 5, 9, 65),
        shape(4, 8, 3, 12),
    ];
    let mut turn = 0;
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        turn += 1;
        check(shape, USUAL, turn % 2 == 0, stored, lengths);
    });
}

#[test]
fn few_tokens() {
    for per_channel in [false, true] {
        for shape in [shape(2, 4, 20, 37), shape(1, 1, 70, 16)] {
            for lengths in FEW {
                check(shape, USUAL, per_channel, Stored::F32, lengths);
            }
        }
    }
}

#[test]
fn shapes_of_real_models_and_beyond_a_pass() {
    for per_channel in [false, true] {
        for shape in [shape(1, 2, 128, 128), shape(1, 1, 96, 192), shape(1, 1, 260, 20)] {
            for lengths in [&[4][..], &[1, 3], &[70]] {
                check(shape, USUAL, per_channel, Stored::F32, lengths);
            }
        }
    }
}

#[test]
fn every_length_around_a_chunk_and_its_blocks() {
    for per_channel in [false, true] {
        for length in [2, 7, 9, 15, 16, 17, 23, 24, 25, 33, 48, 63, 66, 127, 128, 129, 193] {
            check(shape(1, 2, 9, 11), USUAL, per_channel, Stored::F32, &[length]);
        }
    }
}

#[test]
fn gates_far_out() {
    let all = [
        Gates { name: "forgets nothing", decay: (-30.0, 2.0), ..USUAL },
        Gates { name: "forgets all", decay: (40.0, 10.0), ..USUAL },
        Gates { name: "mixed decays", decay: (0.0, 25.0), ..USUAL },
        Gates { name: "all overwritten", decay: (-9.0, 1.0), beta: (9.0, 3.0), ..USUAL },
        Gates { name: "nothing written", beta: (-9.0, 3.0), ..USUAL },
        Gates { name: "negative eigenvalues", decay: (-6.0, 2.0), beta_scale: 2.0, ..USUAL },
        // The state's transitions are reflections: nothing is ever forgotten, rounding errors included.
        Gates {
            name: "reflections",
            decay: (-30.0, 2.0),
            beta: (20.0, 3.0),
            beta_scale: 2.0,
            bound: 4.0,
            ..USUAL
        },
        Gates { name: "one key", decay: (-6.0, 2.0), qk: 3.0, ..USUAL },
        Gates {
            name: "one key, overwritten",
            decay: (-9.0, 1.0),
            beta: (5.0, 3.0),
            qk: 3.0,
            ..USUAL
        },
        Gates {
            name: "one key, reflected",
            decay: (-9.0, 1.0),
            beta: (5.0, 3.0),
            beta_scale: 2.0,
            qk: 3.0,
            // A chunk's updates nearly cancel in what each takes from those before it.
            bound: 5.0,
        },
    ];
    for per_channel in [false, true] {
        for gates in all {
            for lengths in [&[5][..], &[64], &[130], &[9, 70]] {
                check(shape(2, 4, 12, 14), gates, per_channel, Stored::F32, lengths);
            }
        }
    }
}
