//! `positions`: `x += P[t]`.

use kinglet::models::{Matrix, Positions};
use kinglet::op::{self, Op};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{SEQUENCES, TOKENS, each};

fn check(width: usize, learned: bool, stored: Stored, lengths: &[usize]) {
    let name = format!("positions {width} wide, learned {learned}");
    let mut rig = Rig::new(name, stored, lengths);
    let output = rig.input(width, Random::normal).buffer;
    // A table that is part of a larger tensor, starting at its third row.
    let rows = lengths.iter().max().copied().unwrap_or(0);
    let tensor = rig.tensor(&[rows + 3, width], Random::normal);
    let table = match learned {
        true => Positions::Learned(Matrix { tensor, row_offset: 2, rows, cols: width }),
        false => Positions::Sinusoidal,
    };
    rig.op(Op::Positions(op::Positions { table, output }));
    rig.check(output);
}

#[test]
fn rows_of_a_table_follow_each_session() {
    let shapes = [1, 3, 16, 33, 130, 257];
    for sessions in [TOKENS, SEQUENCES] {
        each(&shapes, sessions, |width, stored, lengths| check(width, true, stored, lengths));
    }
}

#[test]
fn sines_and_cosines_are_in_halves() {
    let shapes = [2, 6, 16, 130, 258];
    for sessions in [TOKENS, SEQUENCES] {
        each(&shapes, sessions, |width, stored, lengths| check(width, false, stored, lengths));
    }
}
