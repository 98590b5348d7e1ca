//! `moe_down`: `x += scale * (sum over chosen experts of weight_e * D_e h_e + D h_shared)`.

use kinglet::models::Matrix;
use kinglet::op::{MoeDown, Op};
use kinglet_tests::oracle::Linear;
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
    let (tensor, values) = rig.tensor(&[experts, hidden, inner], |random| size * random.normal());
    let (mut specs, mut downs) = (Vec::new(), Vec::new());
    for expert in 0..experts {
        let row_offset = expert * hidden;
        let weight = values[row_offset * inner..][..hidden * inner].to_vec();
        specs.push(Matrix { tensor: tensor.clone(), row_offset, rows: hidden, cols: inner });
        downs.push(Linear { weight, bias: None, rows: hidden, cols: inner });
    }
    let shared = (shared_inner > 0).then(|| rig.linear(hidden, shared_inner, false));
    let (shared, shared_down) = shared.unzip();
    let x = rig.input(hidden, Random::normal);
    rig.op(Op::MoeDown(MoeDown {
        input: h.buffer,
        routes: chosen.buffer,
        top_k,
        experts: specs,
        shared: shared.map(|shared| shared.weight),
        scale,
        output: x.buffer,
    }));
    rig.check(x.buffer, |session| {
        let one = |i: usize| {
            let (experts, weights) = chosen.rows[i].split_at(top_k);
            let mut sum = vec![0.0; hidden];
            let mut add = |weight: f64, down: &Linear, h: &[f64]| {
                sum.iter_mut().zip(down.apply(h)).for_each(|(s, y)| *s += weight * y);
            };
            for place in 0..top_k {
                let h = &h.rows[i][place * inner..][..inner];
                add(weights[place], &downs[experts[place] as usize], h);
            }
            if let Some(down) = &shared_down {
                add(1.0, down, &h.rows[i][top_k * inner..]);
            }
            x.rows[i].iter().zip(&sum).map(|(x, s)| x + f64::from(scale) * s).collect()
        };
        session.map(one).collect()
    });
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
