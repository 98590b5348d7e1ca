//! `moe_up`: `h_e = act(G_e n(x)) * (U_e n(x))`, or without gates `h_e = act(U_e n(x))`, for each chosen expert of a token, and for the
//! shared expert.

use kinglet::models::{Activation, Matrix};
use kinglet::op::{MoeUp, Op, UpMatrices};
use kinglet_tests::random::Random;
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

/// Indices of a token's experts, all different, then their weights, as written by `moe_route`.
pub(crate) fn routes(random: &mut Random, experts: usize, top_k: usize, skew: bool) -> Vec<f64> {
    let mut all: Vec<usize> = (0..experts).collect();
    random.shuffle(&mut all);
    if skew {
        // Every token chooses expert 0, and none the last expert, if possible.
        all.retain(|&expert| expert != 0 && (expert + 1 < experts || top_k == experts));
        all.insert(0, 0);
    }
    let experts = all[..top_k].iter().map(|&expert| expert as f64);
    let experts: Vec<f64> = experts.collect();
    experts.into_iter().chain((0..top_k).map(|_| random.uniform(0.05, 1.0))).collect()
}

/// Experts, experts used, width of an expert, of the shared one, of the model.
pub(crate) const SHAPES: &[[usize; 5]] = &[
    [1, 1, 1, 0, 1],
    [2, 1, 3, 0, 5],
    [4, 2, 16, 0, 17],
    [4, 4, 7, 9, 16],
    [8, 2, 33, 65, 40],
    [16, 3, 20, 12, 66],
    [5, 3, 130, 1, 9],
    [3, 1, 66, 0, 258],
    [40, 8, 5, 24, 12],
];

fn check(
    [experts, top_k, inner, shared_inner, hidden]: [usize; 5],
    (act, gated, skew): (Activation, bool, bool),
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!(
        "moe_up {top_k} of {experts}, {inner} + {shared_inner} x {hidden} {act:?} gated {gated} skew {skew}"
    );
    let mut rig = Rig::new(name, stored, lengths);
    let input = rig.input(hidden, Random::normal);
    let tokens = rig.tokens();
    let rows = (0..tokens).map(|_| routes(&mut rig.random, experts, top_k, skew)).collect();
    let chosen = rig.input_rows(rows);
    let norm = rig.norm(hidden, 1e-5, false);
    // Where the widths are odd, the input is as it is.
    let norm = Some(norm).filter(|_| hidden % 2 == 0);
    // Gate and up of all experts in one tensor, as several families store them: [experts, 2 inner, hidden]. Without gates, up alone.
    let halves = if gated { 2 } else { 1 };
    let size = (hidden as f64).powf(-0.5);
    let tensor = rig.tensor(&[experts, halves * inner, hidden], |random| size * random.normal());
    let part = |index: usize| Matrix {
        tensor: tensor.clone(),
        row_offset: index * inner,
        rows: inner,
        cols: hidden,
    };
    let first_half = |expert: usize| UpMatrices {
        gate: gated.then(|| part(halves * expert)),
        up: part(halves * expert + halves - 1),
    };
    let pairs = (0..experts).map(first_half).collect();
    let mut shared_half = || rig.linear(shared_inner, hidden, false).weight;
    let shared = (shared_inner > 0)
        .then(|| UpMatrices { gate: gated.then(&mut shared_half), up: shared_half() });
    let output = rig.buffer("inner", top_k * inner + shared_inner);
    let (x, routes) = (input.buffer, chosen.buffer);
    rig.op(Op::MoeUp(MoeUp {
        input: x,
        own_inputs: false,
        norm,
        routes,
        top_k,
        experts: pairs,
        shared,
        activation: act,
        output,
    }));
    rig.check(output);
}

/// Experts with inputs of their own.
fn check_own([experts, top_k, inner, _, hidden]: [usize; 5], stored: Stored, lengths: &[usize]) {
    let name = format!("moe_up {top_k} of {experts}, {inner} x {hidden}, own inputs");
    let mut rig = Rig::new(name, stored, lengths);
    let input = rig.input(top_k * hidden, Random::normal).buffer;
    let tokens = rig.tokens();
    let rows = (0..tokens).map(|_| routes(&mut rig.random, experts, top_k, false)).collect();
    let routes = rig.input_rows(rows).buffer;
    let mut half = || rig.linear(inner, hidden, false).weight;
    let experts = (0..experts).map(|_| UpMatrices { gate: Some(half()), up: half() }).collect();
    let output = rig.buffer("inner", top_k * inner);
    rig.op(Op::MoeUp(MoeUp {
        input,
        own_inputs: true,
        norm: None,
        routes,
        top_k,
        experts,
        shared: None,
        activation: Activation::Gelu,
        output,
    }));
    rig.check(output);
}

#[test]
fn inputs_of_each_expert() {
    each(SHAPES, TOKENS, check_own);
}

#[test]
fn every_shape() {
    each(SHAPES, TOKENS, |shape, stored, lengths| {
        check(shape, (Activation::Silu, true, false), stored, lengths);
        check(shape, (Activation::Relu2, false, false), stored, lengths);
    });
}

#[test]
fn an_expert_of_all_tokens_and_one_of_none() {
    each(SHAPES, &[&[3], &[4], &[130], &[40, 2]], |shape, stored, lengths| {
        check(shape, (Activation::GeluTanh, true, true), stored, lengths);
        check(shape, (Activation::Silu, false, true), stored, lengths);
    });
}
