//! `moe_down`: `x += scale * (sum over chosen experts of weight_e * D_e h_e + weight_shared * D h_shared)`, or `x =` it.

use kinglet::models::Matrix;
use kinglet::op::{MoeDown, Op};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::moe_up::{SHAPES, routes};
use crate::{TOKENS, each};

fn check(
    [experts, top_k, inner, shared_inner, hidden]: [usize; 5],
    (scale, shared_gated, skew, store): (f32, bool, bool, bool),
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!(
        "moe_down {top_k} of {experts}, {hidden} x {inner} + {shared_inner} scale {scale} shared gated {shared_gated} skew {skew} store {store}"
    );
    let mut rig = Rig::new(name, stored, lengths);
    let h = rig.input(top_k * inner + shared_inner, Random::normal);
    let tokens = rig.tokens();
    let mut row = || {
        let mut row = routes(&mut rig.random, experts, top_k, skew);
        // The shared expert's weight comes last.
        row.extend(shared_gated.then(|| rig.random.uniform(0.05, 1.0)));
        row
    };
    let rows = (0..tokens).map(|_| row()).collect();
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
        shared_gated,
        scale,
        store,
        output: x.buffer,
    }));
    rig.check(x.buffer);
}

#[test]
fn every_shape() {
    each(SHAPES, TOKENS, |shape, stored, lengths| {
        check(shape, (1.0, false, false, false), stored, lengths);
        if shape[3] > 0 {
            check(shape, (1.0, true, false, true), stored, lengths);
        }
    });
}

#[test]
fn an_expert_of_all_tokens_and_one_of_none() {
    each(SHAPES, &[&[3], &[4], &[130], &[40, 2]], |shape, stored, lengths| {
        check(shape, (0.22, shape[3] > 0, true, shape[0] % 2 == 0), stored, lengths);
    });
}
