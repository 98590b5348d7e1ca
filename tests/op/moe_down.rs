//! `moe_down`: `x += scale * (sum over chosen experts of weight_e * D_e h_e + D h_shared)`.

use kinglet::models::Matrix;
use kinglet::op::{MoeDown, Op};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::moe_up::{SHAPES, routes};
use crate::{TOKENS, each};

fn check(
    [experts, top_k, inner, shared_inner, hidden]: [usize; 5],
    (scale, skew): (f32, bool),
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!(
        "moe_down {top_k} of {experts}, {hidden} x {inner} + {shared_inner} scale {scale} skew {skew}"
    );
    let mut rig = Rig::new(name, stored, lengths);
    let h = rig.input(top_k * inner + shared_inner, Random::normal);
    let tokens = rig.tokens();
    let rows = (0..tokens).map(|_| routes(&mut rig.random, experts, top_k, skew)).collect();
    let chosen = rig.input_rows(rows);
    let size = (inner as f64).powf(-0.5);
    // [experts, hidden, inner]
    let tensor = rig.tensor(&[experts, hidden, inner], |random| size * random.normal());
    let down = |expert: usize| Matrix {
        tensor: tensor.clone(),
        row_offset: expert * hidden,
        rows: hidden,
        cols: inner,
    };
    let downs = (0..experts).map(down).collect();
    let shared = (shared_inner > 0).then(|| rig.linear(hidden, shared_inner, false).weight);
    let x = rig.input(hidden, Random::normal);
    rig.op(Op::MoeDown(MoeDown {
        input: h.buffer,
        routes: chosen.buffer,
        top_k,
        experts: downs,
        shared,
        scale,
        output: x.buffer,
    }));
    rig.check(x.buffer);
}

#[test]
fn every_shape() {
    each(SHAPES, TOKENS, |shape, stored, lengths| check(shape, (1.0, false), stored, lengths));
}

#[test]
fn an_expert_of_all_tokens_and_one_of_none() {
    each(SHAPES, &[&[3], &[4], &[130], &[40, 2]], |shape, stored, lengths| {
        check(shape, (0.22, true), stored, lengths);
    });
}
