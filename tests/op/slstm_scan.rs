//! `slstm_scan`: of `[i | f | z | o]` plus `R h` of the last token, with exponential gates `m' = max(lf + m, i)`:
//! `c' = e^(lf+m-m') c + e^(i-m') tanh(z)`, `n' = e^(lf+m-m') n + e^(i-m')`, `s = c' / n'`; else
//! `c' = sigmoid(f) c + sigmoid(i) tanh(z)`, `s = c'`. Then `h = sigmoid(o) * rms_norm(s)` of each head.

use kinglet::models::{CellGating, ForgetGate};
use kinglet::op::{Op, SLstmScan};
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{FEW, SEQUENCES, each};

#[derive(Clone, Copy, Debug)]
struct Form {
    gating: CellGating,
    /// Spread of the matrices on `h`, if there are any, over that of a random matrix that keeps lengths.
    mixing: Option<f64>,
    /// Mean and spread of the input gates and of the forget gates.
    i: (f64, f64),
    f: (f64, f64),
}

const USUAL: Form = Form {
    gating: CellGating::Exponential(ForgetGate::Sigmoid),
    mixing: Some(0.5),
    i: (-0.5, 1.0),
    f: (2.0, 1.0),
};
const GROWING: CellGating = CellGating::Exponential(ForgetGate::Exponential);

fn check([heads, dim]: [usize; 2], form: Form, stored: Stored, lengths: &[usize]) {
    let name = format!("slstm_scan {heads} x {dim} {form:?}");
    let mut rig = Rig::new(name, stored, lengths).bound(5.0);
    let mut column = 0;
    let input = rig.input(4 * heads * dim, |random| {
        let (mean, spread) = match column % (4 * heads * dim) / (heads * dim) {
            0 => form.i,
            1 => form.f,
            _ => (0.0, 1.0),
        };
        column += 1;
        mean + spread * random.normal()
    });
    let recurrent = form.mixing.map(|mixing| {
        let size = mixing * (dim as f64).powf(-0.5);
        rig.tensor(&[heads, 4, dim, dim], |random| size * random.normal())
    });
    let cell_norm = rig.norm(heads * dim, 1e-3, false);
    let state = rig.state(&[heads, 4 * dim]);
    let output = rig.buffer("h", heads * dim);
    rig.op(Op::SLstmScan(SLstmScan {
        input: input.buffer,
        heads,
        head_dim: dim,
        recurrent,
        gating: form.gating,
        cell_norm,
        state,
        output,
    }));
    rig.check(output);
}

#[test]
fn every_shape_and_gating() {
    let shapes = [[1, 1], [2, 3], [3, 8], [1, 17], [4, 16], [2, 33], [5, 7], [1, 64], [2, 70]];
    let gatings = [USUAL.gating, GROWING, CellGating::Sigmoid];
    let mut turn = 0;
    each(&shapes, SEQUENCES, |shape, stored, lengths| {
        let form = Form {
            gating: gatings[turn % gatings.len()],
            mixing: USUAL.mixing.filter(|_| turn % 4 != 3),
            f: if turn % 3 == 1 { (-0.5, 0.5) } else { USUAL.f },
            ..USUAL
        };
        turn += 1;
        check(shape, form, stored, lengths);
    });
}

#[test]
fn few_tokens() {
    for shape in [[3, 20], [2, 130]] {
        for lengths in FEW {
            check(shape, USUAL, Stored::F32, lengths);
        }
    }
}

/// The kernels' threads have several channels each.
#[test]
fn wide_heads() {
    for shape in [[1, 256], [1, 300], [1, 520]] {
        for lengths in [&[4][..], &[1, 3], &[20]] {
            check(shape, USUAL, Stored::F32, lengths);
            check(shape, Form { mixing: None, ..USUAL }, Stored::F32, lengths);
        }
    }
}

#[test]
fn gates_far_out() {
    let forms = [
        // Forgets nothing; forgets all.
        Form { f: (60.0, 5.0), ..USUAL },
        Form { f: (-40.0, 5.0), ..USUAL },
        Form { i: (60.0, 30.0), ..USUAL },
        Form { i: (-60.0, 20.0), ..USUAL },
        // The stabilizer grows by as much at each token, and falls.
        Form { gating: GROWING, f: (3.0, 1.0), ..USUAL },
        Form { gating: GROWING, f: (-30.0, 9.0), i: (-90.0, 20.0), ..USUAL },
        Form { gating: CellGating::Sigmoid, f: (20.0, 9.0), i: (5.0, 9.0), ..USUAL },
        // Every output counts in the next gates. With more the recurrence is chaotic: rounding errors grow from token to token.
        Form { mixing: Some(1.0), ..USUAL },
    ];
    for form in forms {
        for lengths in [&[5][..], &[64], &[130], &[9, 70]] {
            check([3, 12], form, Stored::F32, lengths);
        }
    }
}
