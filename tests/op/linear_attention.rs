//! `linear_attention`: for each head of decay `a`: `S = a S + k v^T`, `y = scale S^T q`.

use kinglet::models::Activation;
use kinglet::op::{HeadColumns, LinearAttention, Op};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{FEW, SEQUENCES};

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    key_dim: usize,
    value_dim: usize,
}

const fn shape(heads: usize, key_dim: usize, value_dim: usize) -> Shape {
    Shape { heads, key_dim, value_dim }
}

/// How the columns of a token lie.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// A head's queries, keys and values side by side, as MiniMax projects them; then other columns.
    ByHead,
    /// The queries of all heads, then the keys, then the values, with gaps.
    ByKind,
}

/// What else can be chosen.
#[derive(Clone, Copy, Debug)]
struct Form {
    order: Order,
    activation: Option<Activation>,
    /// Bounds of the log decays.
    decays: (f64, f64),
    scale: f32,
}

const MINIMAX: Form = Form {
    order: Order::ByHead,
    activation: Some(Activation::Silu),
    decays: (-0.9, 0.0),
    scale: 1.0,
};

fn check(shape: Shape, form: Form, lengths: &[usize]) {
    let Shape { heads, key_dim, value_dim } = shape;
    let name = format!("linear_attention {shape:?} {form:?}");
    let mut rig = Rig::new(name, Stored::F32, lengths).bound(2.0);
    let width = heads * (2 * key_dim + value_dim);
    let [queries, keys, values] = match form.order {
        Order::ByHead => {
            let stride = 2 * key_dim + value_dim;
            [0, key_dim, 2 * key_dim].map(|first| HeadColumns { first, stride })
        }
        Order::ByKind => [
            HeadColumns { first: 1, stride: key_dim },
            HeadColumns { first: 2 + heads * key_dim, stride: key_dim },
            HeadColumns { first: 4 + 2 * heads * key_dim, stride: value_dim },
        ],
    };
    let input = rig.input(width + 5, Random::normal);
    let (low, high) = form.decays;
    let log_decays = (0..heads).map(|_| rig.random.uniform(low, high) as f32).collect();
    let state = rig.state(&[heads, key_dim, value_dim]);
    let output = rig.buffer("y", heads * value_dim);
    rig.op(Op::LinearAttention(LinearAttention {
        input: input.buffer,
        queries,
        keys,
        values,
        activation: form.activation,
        scale: form.scale,
        log_decays,
        key_dim,
        value_dim,
        state,
        output,
    }));
    rig.check(output);
}

const SHAPES: [Shape; 10] = [
    shape(1, 1, 1),
    shape(2, 3, 5),
    shape(3, 7, 4),
    shape(4, 16, 16),
    shape(6, 33, 17),
    shape(2, 64, 64),
    shape(1, 130, 80),
    shape(8, 20, 8),
    shape(5, 9, 65),
    shape(24, 4, 3),
];

#[test]
fn every_shape() {
    let by_kind = Form { order: Order::ByKind, scale: 0.3, ..MINIMAX };
    let mut turn = 0;
    for shape in SHAPES {
        for form in [MINIMAX, by_kind] {
            check(shape, form, SEQUENCES[turn % SEQUENCES.len()]);
            check(shape, form, SEQUENCES[(turn + 4) % SEQUENCES.len()]);
            turn += 1;
        }
    }
}

#[test]
fn few_tokens() {
    for shape in [shape(6, 33, 17), shape(4, 70, 16)] {
        for lengths in FEW {
            check(shape, MINIMAX, lengths);
        }
    }
}

#[test]
fn shapes_of_real_models_and_beyond_a_pass() {
    for shape in [shape(2, 128, 128), shape(1, 300, 20), shape(1, 260, 7)] {
        for lengths in [&[4][..], &[1, 3], &[70]] {
            check(shape, MINIMAX, lengths);
        }
    }
}

#[test]
fn every_length_around_a_chunk() {
    for length in [2, 7, 10, 63, 66, 127, 128, 129, 193] {
        check(shape(2, 11, 9), MINIMAX, &[length]);
    }
}

#[test]
fn every_activation_and_decay() {
    let forms = [
        Form { activation: None, ..MINIMAX },
        Form { activation: Some(Activation::Gelu), ..MINIMAX },
        Form { activation: Some(Activation::GeluTanh), ..MINIMAX },
        Form { activation: Some(Activation::Relu), ..MINIMAX },
        Form { decays: (0.0, 0.0), ..MINIMAX },
        Form { decays: (-1e-3, -1e-6), ..MINIMAX },
        Form { decays: (-200.0, -50.0), ..MINIMAX },
    ];
    for form in forms {
        for lengths in [&[5][..], &[64], &[130], &[9, 70]] {
            check(shape(4, 10, 12), form, lengths);
        }
    }
}
