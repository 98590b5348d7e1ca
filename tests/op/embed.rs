//! `embed`: `x = scale * E[token]`.

use kinglet::op::{Embed, Op};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;

use crate::{TOKENS, each};

#[test]
fn rows_are_decoded_and_scaled() {
    let shapes = [(1, 1.0), (3, 12.0), (16, 1.0), (33, 0.37), (130, -2.0), (257, 1.0)];
    each(&shapes, TOKENS, |(width, scale), stored, lengths| {
        let mut rig = Rig::new(format!("embed {width} x {scale}"), stored, lengths);
        let vocab = rig.vocab(width);
        let tensor = rig.tensor(&[vocab + 3, width], Random::normal);
        // A table that is part of a larger tensor, starting at its third row.
        let table = kinglet::models::Matrix { tensor, row_offset: 2, rows: vocab, cols: width };
        let output = rig.buffer("x", width);
        rig.op(Op::Embed(Embed { table: Some(table), scale, output }));
        rig.check(output);
    });
}
