//! `mlstm_scan`: with `i = cap(i)`, `f = logsigmoid(cap(f))` or `cap(f)`, `m' = max(f + m, i)`:
//! `C = e^(f+m-m') C + e^(i-m') k v^T`, `n = e^(f+m-m') n + e^(i-m') k`,
//! `h = (q^T C / sqrt(dk)) / (max(|q . n| / sqrt(dk), e^-m') + eps)`,
//! `y = sigmoid(o) * (norm(h) * weight + bias) * silu(b)`, where there may be no norm and no `b`.

use kinglet::models::ForgetGate;
use kinglet::op::{Linear, MLstmScan, Op, Output, Prologue, Slice};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{FEW, SEQUENCES, each};

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    qk: usize,
    v: usize,
}

const fn shape(heads: usize, qk: usize, v: usize) -> Shape {
    Shape { heads, qk, v }
}

/// Distribution of the gates: mean and spread of the input gate and of the forget gate.
#[derive(Clone, Copy, Debug)]
struct Gates {
    name: &'static str,
    i: (f64, f64),
    f: (f64, f64),
    cap: Option<f32>,
    /// Mean of queries and keys. If only the current token counts, `q . k` must not cancel: the
    /// following norm would amplify rounding errors.
    qk: f64,
    /// Factor on the bound.
    bound: f64,
    forget: ForgetGate,
    /// The norm of heads.
    norm: HeadNorm,
    /// Whether there is a second gate.
    stream: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum HeadNorm {
    None,
    Layer,
    Rms,
}

const USUAL: Gates = Gates {
    name: "usual",
    i: (-1.0, 2.0),
    f: (3.0, 2.0),
    cap: Some(15.0),
    qk: 0.0,
    bound: 10.0,
    forget: ForgetGate::Sigmoid,
    norm: HeadNorm::Layer,
    stream: false,
};

fn check(shape: Shape, gates: Gates, bias: bool, stored: Stored, lengths: &[usize]) {
    check_before(None, shape, gates, bias, stored, lengths);
}

/// The scan, and with `rows` a projection of its output to as many rows, which is added to the
/// output.
fn check_before(
    rows: Option<usize>,
    shape: Shape,
    gates: Gates,
    bias: bool,
    stored: Stored,
    lengths: &[usize],
) {
    let Shape { heads, qk, v } = shape;
    let name = format!("mlstm_scan {shape:?} {} bias {bias} before {rows:?}", gates.name);
    let mut rig = Rig::new(name, stored, lengths).bound(gates.bound);
    // Columns of the input: q, k, v, output gate, input gate, forget gate.
    let v_at = 2 * heads * qk;
    let i_at = v_at + 2 * heads * v;
    let (f_at, width) = (i_at + heads, i_at + 2 * heads);
    let mut column = 0;
    let input = rig.input(width, |random| {
        let (mean, spread) = match column % width {
            at if at >= f_at => gates.f,
            at if at >= i_at => gates.i,
            at if at < v_at => (gates.qk, 1.0),
            _ => (0.0, 1.0),
        };
        column += 1;
        mean + spread * random.normal()
    });
    let norm_eps = 1e-6;
    let normed = gates.norm != HeadNorm::None;
    let head_norm = normed.then(|| rig.norm(heads * v, norm_eps, bias));
    let stream_gate = gates.stream.then(|| {
        let stream = rig.input(3 + heads * v + 2, Random::normal);
        Slice { buffer: stream.buffer, offset: 3, width: heads * v }
    });
    let state = rig.state(&[heads, qk * v + qk + 1]);
    let output = rig.buffer("y", heads * v);
    let eps = 1e-6;
    rig.op(Op::MLstmScan(MLstmScan {
        input: input.buffer,
        heads,
        qk_head_dim: qk,
        v_head_dim: v,
        gate_soft_cap: gates.cap,
        forget_gate: gates.forget,
        eps,
        head_norm,
        centred: gates.norm == HeadNorm::Layer,
        stream_gate,
        state,
        output,
        defers_norm: rows.is_some(),
    }));
    let projected = rows.map(|rows| {
        let there = rig.input(rows, Random::normal);
        let linear = rig.linear(rows, heads * v, true);
        rig.op(Op::Linear(Linear {
            input: rig.whole(output),
            prologue: Prologue::None,
            parts: vec![linear],
            output: rig.whole(there.buffer),
            mode: Output::Add { scale: 0.5 },
        }));
        there.buffer
    });
    let result = projected.unwrap_or(output);
    rig.check(result);
}

#[test]
fn every_shape() {
    let shapes = [
        shape(1, 1, 2),
        shape(2, 3, 5),
        shape(3, 4, 8),
        shape(4, 8, 16),
        shape(2, 17, 33),
        shape(1, 64, 128),
        shape(2, 80, 80),
        shape(5, 33, 7),
        shape(1, 130, 66),
        shape(7, 2, 1),
    ];
    let mut turn = 0;
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        turn += 1;
        check(shape, USUAL, turn % 2 == 0, stored, lengths);
    });
}

#[test]
fn few_tokens() {
    for shape in [shape(3, 20, 37), shape(2, 70, 16)] {
        for lengths in FEW {
            check(shape, Gates { qk: 2.0, ..USUAL }, true, Stored::F32, lengths);
        }
    }
}

/// Backends may leave a part of the scan to the projection that follows it.
#[test]
fn before_a_projection() {
    let shapes =
        [shape(1, 5, 9), shape(3, 20, 37), shape(4, 32, 64), shape(2, 70, 16), shape(1, 64, 520)];
    // Also more sessions than a step with few tokens takes.
    const MORE: &[&[usize]] = &[&[1], &[40], &[1, 1, 1, 1, 1, 1], &[3, 2, 4, 1], &[70, 2]];
    let sessions = FEW.iter().chain(MORE);
    for (turn, lengths) in sessions.enumerate() {
        for (index, shape) in shapes.into_iter().enumerate() {
            let stored = Stored::ALL[(turn + index) % 3];
            let gates = Gates { qk: 2.0, ..USUAL };
            check_before(Some(7 + 40 * index), shape, gates, turn % 2 == 0, stored, lengths);
        }
    }
}

#[test]
fn shapes_of_real_models_and_beyond_a_pass() {
    for shape in [shape(1, 256, 512), shape(1, 300, 270), shape(2, 520, 40)] {
        for lengths in [&[4][..], &[1, 3], &[70]] {
            check(shape, USUAL, true, Stored::F32, lengths);
        }
    }
}

#[test]
fn every_length_around_a_chunk() {
    for length in [2, 7, 10, 63, 66, 127, 128, 129, 193] {
        check(shape(2, 9, 11), USUAL, true, Stored::F32, &[length]);
    }
}

#[test]
fn gates_far_out() {
    let all = [
        Gates { name: "no cap", cap: None, ..USUAL },
        Gates { name: "forgets nothing", f: (60.0, 5.0), cap: None, ..USUAL },
        Gates { name: "forgets all", f: (-20.0, 5.0), qk: 2.0, cap: None, ..USUAL },
        Gates { name: "huge inputs", i: (60.0, 30.0), cap: None, qk: 2.0, ..USUAL },
        Gates { name: "nearly no input", i: (-60.0, 20.0), f: (5.0, 1.0), cap: None, ..USUAL },
        Gates {
            name: "a tight cap",
            i: (0.0, 9.0),
            f: (0.0, 9.0),
            cap: Some(2.5),
            qk: 2.0,
            ..USUAL
        },
    ];
    for gates in all {
        for lengths in [&[5][..], &[64], &[130], &[9, 70]] {
            check(shape(3, 12, 14), gates, false, Stored::F32, lengths);
        }
    }
}

/// Exponential forget gates, whose logarithms have any sign, with each norm of heads and with a second gate.
#[test]
fn every_gate_and_norm() {
    let exponential = Gates {
        name: "exponential",
        forget: ForgetGate::Exponential,
        f: (0.0, 1.0),
        cap: None,
        norm: HeadNorm::Rms,
        stream: true,
        ..USUAL
    };
    // Without a norm nothing hides where `q . n` crosses zero, so it must not.
    let bare = Gates { name: "no norm", norm: HeadNorm::None, qk: 2.0, ..exponential };
    let all = [
        exponential,
        bare,
        Gates { name: "sigmoid", forget: ForgetGate::Sigmoid, f: (3.0, 2.0), ..bare },
        Gates { name: "layer norm", norm: HeadNorm::Layer, qk: 2.0, ..exponential },
        // The stabilizer grows at every token, or falls.
        Gates { name: "grows", f: (2.0, 1.0), qk: 2.0, ..exponential },
        Gates { name: "falls", f: (-4.0, 2.0), i: (-30.0, 9.0), qk: 2.0, ..exponential },
    ];
    for gates in all {
        for (shape, lengths) in [
            (shape(3, 12, 14), &[5][..]),
            (shape(2, 33, 70), &[64]),
            (shape(3, 12, 14), &[130]),
            (shape(1, 70, 20), &[9, 70]),
            (shape(2, 20, 37), &[4, 2, 5, 1]),
        ] {
            check(shape, gates, false, Stored::F32, lengths);
        }
    }
}
