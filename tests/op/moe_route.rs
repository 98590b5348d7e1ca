//! `moe_route`: the `top_k` experts that score best, of the best groups, with their weights; then the shared expert's weight.

use kinglet::models::{ExpertGroups, GroupRank, Router, Score};
use kinglet::op::{MoeRoute, Op};
use kinglet_tests::reference::Values;
use kinglet_tests::reference::moe_route::{Ranked, group_ranks, ranked};
use kinglet_tests::rig::Rig;
use kinglet_tests::tensors::Stored;

use crate::{TOKENS, each};

/// What differs from one router to the next.
#[derive(Clone, Copy, Debug)]
struct Choices {
    score: Score,
    renormalize: bool,
    epsilon: f32,
    biased: bool,
    scale: f32,
    groups: Option<ExpertGroups>,
    shared: bool,
}

const PLAIN: Choices = Choices {
    score: Score::Softmax,
    renormalize: false,
    epsilon: 0.0,
    biased: false,
    scale: 1.0,
    groups: None,
    shared: false,
};

fn check(
    choices: Choices,
    [experts, top_k, hidden]: [usize; 3],
    stored: Stored,
    lengths: &[usize],
) {
    let name = format!("moe_route {top_k} of {experts} x {hidden} {choices:?}");
    let mut rig = Rig::new(name, stored, lengths);
    let norm = rig.norm(hidden, 1e-5, hidden % 2 == 0);
    let linear = rig.linear(experts, hidden, experts % 2 == 0);
    let selection_bias = choices.biased.then(|| rig.tensor(&[experts], |r| 0.3 * r.normal()));
    let shared_gate = choices.shared.then(|| rig.linear(1, hidden, hidden % 3 == 0));
    let Choices { score, renormalize, epsilon, scale, groups, .. } = choices;
    let router =
        Router { linear, score, selection_bias, groups, top_k, renormalize, epsilon, scale };
    let weights = rig.weights();
    let values = Values(&weights);
    // Where the widths are odd, the input is as it is.
    let norm = Some(norm).filter(|_| hidden % 2 == 0);
    let (n, r) = (values.before(norm.as_ref()), values.linear(&router.linear));
    let bias = router.selection_bias.as_ref().map(|bias| values.vector(bias));
    let of = |router: &Router, x: &[f64]| ranked(router, &n(x), (&r, bias.as_deref()));
    let ungrouped = Router { groups: None, ..router.clone() };
    // Inputs whose experts and groups are a clear choice: of two that are nearly equal either is right.
    let clear = |x: &[f64]| {
        let apart = |a: f64, b: f64| a - b > 1e-4 * a.abs();
        let ranked = of(&router, x);
        let experts = ranked.windows(2).take(top_k).all(|pair| apart(pair[0].rank, pair[1].rank));
        let groups = groups.is_none_or(|groups| {
            let mut all: Vec<Ranked> = of(&ungrouped, x);
            all.sort_by_key(|expert| expert.expert);
            let ranks = group_ranks(groups, &all);
            ranks.get(groups.used).is_none_or(|next| apart(ranks[groups.used - 1].1, next.1))
        });
        experts && groups
    };
    let tokens = rig.tokens();
    let mut row = || {
        for _ in 0..10_000 {
            let x: Vec<f64> = (0..hidden).map(|_| Stored::F32.round(rig.random.normal())).collect();
            if clear(&x) {
                return x;
            }
        }
        panic!("no input with a clear choice of {top_k} of {experts}")
    };
    let rows = (0..tokens).map(|_| row()).collect();
    let input = rig.input_rows(rows);
    let output = rig.buffer("routes", 2 * top_k + usize::from(choices.shared));
    let input = input.buffer;
    rig.op(Op::MoeRoute(MoeRoute { input, norm: norm.clone(), router, shared_gate, output }));
    rig.check(output);
}

/// Experts, experts used, width.
const SHAPES: &[[usize; 3]] = &[
    [1, 1, 4],
    [2, 1, 3],
    [4, 4, 17],
    [5, 2, 1],
    [8, 2, 33],
    [17, 3, 64],
    [64, 8, 130],
    [130, 6, 40],
    [33, 33, 20],
];

#[test]
fn the_largest_probabilities_in_order() {
    each(SHAPES, TOKENS, |shape, stored, lengths| {
        for renormalize in [false, true] {
            check(Choices { renormalize, ..PLAIN }, shape, stored, lengths);
        }
    });
}

#[test]
fn sigmoids_biases_and_factors() {
    each(SHAPES, TOKENS, |shape, stored, lengths| {
        for score in [Score::Softmax, Score::Sigmoid] {
            let choices = Choices { score, biased: true, scale: 2.5, ..PLAIN };
            check(choices, shape, stored, lengths);
        }
        // The second is large enough to count beside the sum.
        for epsilon in [1e-20, 0.4] {
            let choices = Choices { score: Score::Sigmoid, renormalize: true, epsilon, ..PLAIN };
            check(choices, shape, stored, lengths);
        }
    });
}

#[test]
fn the_shared_experts_weight() {
    // 256 rows of weights are a round of the kernel for wgpu, the gate's among them.
    let shapes = [[1, 1, 4], [8, 2, 33], [63, 8, 130], [64, 4, 20], [512, 10, 8]];
    each(&shapes, TOKENS, |shape, stored, lengths| {
        check(Choices { shared: true, renormalize: true, ..PLAIN }, shape, stored, lengths);
    });
}

#[test]
fn experts_of_the_best_groups() {
    // Groups, groups used, then as above.
    let shapes = [
        [1, 1, 4, 2, 16],
        [4, 1, 4, 1, 5],
        [4, 2, 16, 3, 33],
        [3, 2, 6, 4, 20],
        [8, 4, 64, 8, 40],
        [8, 3, 256, 6, 12],
    ];
    each(&shapes, TOKENS, |[count, used, experts, top_k, hidden], stored, lengths| {
        for (rank, score, biased) in [
            (GroupRank::Largest, Score::Softmax, false),
            (GroupRank::SumOfTwoLargest, Score::Sigmoid, true),
        ] {
            let groups = Some(ExpertGroups { count, used, rank });
            let choices = Choices { score, biased, groups, renormalize: biased, ..PLAIN };
            check(choices, [experts, top_k, hidden], stored, lengths);
        }
    });
}
