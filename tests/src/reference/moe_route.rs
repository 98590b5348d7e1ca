//! The `top_k` experts that score best, of the best groups, with their weights; then the shared expert's weight.

use kinglet::models::{ExpertGroups, GroupRank, Router, Score};
use kinglet::op::MoeRoute;

use super::math::{sigmoid, softmax};
use super::{Linear, Pass, Rows};

pub(super) fn moe_route(op: &MoeRoute, pass: &Pass<'_>) -> Rows {
    let n = pass.values.before(op.norm.as_ref());
    let r = pass.values.linear(&op.router.linear);
    let gate = op.shared_gate.as_ref().map(|gate| pass.values.linear(gate));
    let bias = op.router.selection_bias.as_ref().map(|bias| pass.values.vector(bias));
    let route = |x: &Vec<f64>| {
        let mut chosen = ranked(&op.router, &n(x), (&r, bias.as_deref()));
        chosen.truncate(op.router.top_k);
        let total: f64 = chosen.iter().map(|expert| expert.score).sum();
        let total = total + f64::from(op.router.epsilon);
        let share = if op.router.renormalize { total } else { 1.0 };
        let mut row: Vec<f64> = chosen.iter().map(|expert| expert.expert as f64).collect();
        row.extend(chosen.iter().map(|e| f64::from(op.router.scale) * e.score / share));
        row.extend(gate.iter().map(|gate| sigmoid(gate.apply(&n(x))[0])));
        row
    };
    pass.read(op.input).iter().map(route).collect()
}

/// An expert and how it does.
#[derive(Clone, Copy, Debug)]
pub struct Ranked {
    /// Its number.
    pub expert: usize,
    /// Its score.
    pub score: f64,
    /// What it is ranked by.
    pub rank: f64,
}

/// The experts that can be chosen for the normed `x`, best first; of equals the first.
pub fn ranked(
    router: &Router,
    x: &[f64],
    (linear, bias): (&Linear, Option<&[f64]>),
) -> Vec<Ranked> {
    let logits = linear.apply(x);
    let scores = match router.score {
        Score::Softmax => softmax(&logits),
        Score::Sigmoid => logits.into_iter().map(sigmoid).collect(),
    };
    let bias = |expert: usize| bias.map_or(0.0, |bias| bias[expert]);
    let all = scores.iter().enumerate();
    let mut all: Vec<_> =
        all.map(|(i, &score)| Ranked { expert: i, score, rank: score + bias(i) }).collect();
    if let Some(groups) = router.groups {
        let size = all.len() / groups.count;
        let mut used = group_ranks(groups, &all);
        used.truncate(groups.used);
        all.retain(|expert| used.iter().any(|(group, _)| *group == expert.expert / size));
    }
    all.sort_by(|a, b| b.rank.total_cmp(&a.rank));
    all
}

/// Groups with what they are ranked by, best first. `experts` are in order of their numbers.
pub fn group_ranks(groups: ExpertGroups, experts: &[Ranked]) -> Vec<(usize, f64)> {
    let rank = |group: &[Ranked]| -> f64 {
        let mut ranks: Vec<f64> = group.iter().map(|expert| expert.rank).collect();
        ranks.sort_by(|a, b| b.total_cmp(a));
        ranks.truncate(match groups.rank {
            GroupRank::Largest => 1,
            GroupRank::SumOfTwoLargest => 2,
        });
        ranks.iter().sum()
    };
    let groups = experts.chunks(experts.len() / groups.count).map(rank);
    let mut all: Vec<(usize, f64)> = groups.enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}
