//! `head_linear`: for each head `y_h = W_h x_h`, or `y_h = W_h^T x_h`, beside elements that are carried along.

use kinglet::models::Matrix;
use kinglet::op::{HeadLinear, Op, Slice};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    inputs: usize,
    outputs: usize,
    carried: usize,
}

const fn shape(heads: usize, inputs: usize, outputs: usize, carried: usize) -> Shape {
    Shape { heads, inputs, outputs, carried }
}

const SHAPES: [Shape; 9] = [
    shape(1, 1, 1, 0),
    shape(2, 3, 5, 1),
    shape(3, 16, 8, 4),
    shape(5, 33, 17, 0),
    shape(2, 64, 130, 3),
    shape(4, 8, 257, 32),
    shape(2, 257, 16, 2),
    shape(1, 514, 15, 0),
    shape(32, 24, 40, 8),
];

fn check(shape: Shape, transposed: bool, stored: Stored, lengths: &[usize]) {
    let Shape { heads, inputs, outputs, carried } = shape;
    let name = format!("head_linear {shape:?} transposed {transposed}");
    let mut rig = Rig::new(name, stored, lengths);
    let before = rig.random.between(0, 5);
    let width = heads * (inputs + carried);
    let after = rig.random.between(0, 5);
    let input = rig.input(before + width + after, Random::normal);
    let (rows, cols) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
    // Each in a tensor of its own, or all in one with other rows between them, as keys and values are.
    let size = (inputs as f64).powf(-0.5);
    let mut matrix = |count: usize| rig.tensor(&[count, cols], |random| size * random.normal());
    let matrices: Vec<Matrix> = if heads % 2 == 1 {
        (0..heads).map(|_| Matrix { tensor: matrix(rows), row_offset: 0, rows, cols }).collect()
    } else {
        let each = rows + 2;
        let tensor = matrix(heads * each);
        let part =
            |head| Matrix { tensor: tensor.clone(), row_offset: head * each + 1, rows, cols };
        (0..heads).map(part).collect()
    };
    let output = rig.buffer("y", heads * (outputs + carried));
    rig.op(Op::HeadLinear(HeadLinear {
        input: Slice { buffer: input.buffer, offset: before, width },
        heads: matrices,
        transposed,
        carried,
        output,
    }));
    rig.check(output);
}

#[test]
fn every_shape_of_rows_and_columns() {
    for transposed in [false, true] {
        each(&SHAPES, TOKENS, |shape, stored, lengths| check(shape, transposed, stored, lengths));
    }
}

#[test]
fn every_number_of_tokens_around_what_is_taken_at_once() {
    for tokens in [7, 8, 9, 15, 16, 17, 47, 48, 49, 97] {
        for transposed in [false, true] {
            check(shape(3, 21, 19, 2), transposed, Stored::ALL[tokens % 3], &[tokens]);
        }
    }
}
