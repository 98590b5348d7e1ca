//! `moe_route` on the CPU.

use kinglet_models::{ExpertGroups, GroupRank, Router, Score};

use super::CpuOp;
use super::inputs::means_from;
use super::projection::{Before, Projection, prepare, prepare_from, project, vector};
use super::step::Step;
use crate::Error;
use crate::plan::op::{self, BufferId, Slice};
use crate::weights::Weights;

pub(super) struct MoeRoute {
    input: BufferId,
    before: Before,
    router: Projection,
    shared_gate: Option<Projection>,
    choice: Choice,
    output: BufferId,
}

impl MoeRoute {
    pub(super) fn new(op: &op::MoeRoute, weights: &Weights) -> Result<Self, Error> {
        let gate = op.shared_gate.as_ref();
        Ok(Self {
            input: op.input,
            before: Before::norm(op.norm.as_ref(), weights)?,
            router: Projection::new(&op.router.linear, weights)?,
            shared_gate: gate.map(|gate| Projection::new(gate, weights)).transpose()?,
            choice: Choice::new(&op.router, vector(weights, op.router.selection_bias.as_ref())?),
            output: op.output,
        })
    }
}

impl CpuOp for MoeRoute {
    fn run(&self, step: &mut Step<'_, '_>) -> Result<(), Error> {
        let (tokens, experts) = (step.tokens.len(), self.router.rows());
        // A row of logits, the shared expert's last; then room to rank them.
        let row = experts + usize::from(self.shared_gate.is_some());
        let mut logits = step.scratch.take(tokens * row + experts)?;
        let width = step.buffers.width(self.input);
        let slice = Slice { buffer: self.input, offset: 0, width };
        let input = prepare(&mut prepare_from!(step), slice, &self.before, None)?;
        let (rows, ranked) = logits.split_at_mut(tokens * row);
        let parts: Vec<&Projection> = [&self.router].into_iter().chain(&self.shared_gate).collect();
        project(means_from!(step), &parts, input.vectors(), (&mut *rows, row), |o, r| {
            o.copy_from_slice(r);
        })?;
        input.end(step.scratch);
        let mut output = step.buffers.take(self.output);
        let routes = output.data().chunks_mut(2 * self.choice.top_k + row - experts);
        for (out, logits) in routes.zip(rows.chunks_mut(row)) {
            let (logits, gate) = logits.split_at_mut(experts);
            self.choice.choose(logits, &mut ranked[..experts], out);
            if let (Some(gate), Some(out)) = (gate.first(), out.get_mut(2 * self.choice.top_k)) {
                *out = sigmoid(*gate);
            }
        }
        step.buffers.put(output);
        step.scratch.give(logits);
        Ok(())
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// How logits become a choice.
struct Choice {
    score: Score,
    /// `[experts]`, or empty.
    bias: Vec<f32>,
    groups: Option<ExpertGroups>,
    top_k: usize,
    renormalize: bool,
    epsilon: f32,
    scale: f32,
}

impl Choice {
    fn new(router: &Router, bias: Vec<f32>) -> Self {
        let Router { score, groups, top_k, renormalize, epsilon, scale, .. } = *router;
        Self { score, bias, groups, top_k, renormalize, epsilon, scale }
    }

    /// `out = [experts.., weights..]`, best first; of equals the lower number first. `logits` become scores.
    fn choose(&self, logits: &mut [f32], ranked: &mut [f32], out: &mut [f32]) {
        // Where nothing is added to them, logits rank as scores do, and are never equal by rounding.
        ranked.copy_from_slice(logits);
        match self.score {
            Score::Softmax => {
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f32 = logits.iter().map(|x| (x - largest).exp()).sum();
                logits.iter_mut().for_each(|x| *x = (*x - largest).exp() / total);
            }
            Score::Sigmoid => logits.iter_mut().for_each(|x| *x = sigmoid(*x)),
        }
        let scores = &*logits;
        if !self.bias.is_empty() || self.groups.is_some() {
            ranked.copy_from_slice(scores);
            ranked.iter_mut().zip(&self.bias).for_each(|(ranked, bias)| *ranked += bias);
        }
        if let Some(groups) = self.groups {
            leave_best(groups, ranked);
        }
        let (experts, weights) = out.split_at_mut(self.top_k);
        let mut sum = 0.0;
        for (expert, weight) in experts.iter_mut().zip(weights.iter_mut()) {
            let best = best_of(ranked);
            *expert = best as f32;
            *weight = scores[best];
            sum += *weight;
            ranked[best] = f32::NEG_INFINITY;
        }
        let factor = if self.renormalize { self.scale / (sum + self.epsilon) } else { self.scale };
        weights.iter_mut().take(self.top_k).for_each(|w| *w *= factor);
    }
}

/// The place of the largest value; of equals the first.
fn best_of(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// Takes the experts of all groups but the best out of the choice.
fn leave_best(groups: ExpertGroups, ranked: &mut [f32]) {
    let size = (ranked.len() / groups.count.max(1)).max(1);
    let rank = |group: &[f32]| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &value in group {
            (first, second) =
                if value > first { (value, first) } else { (first, second.max(value)) };
        }
        match groups.rank {
            GroupRank::SumOfTwoLargest if group.len() > 1 => first + second,
            GroupRank::SumOfTwoLargest | GroupRank::Largest => first,
        }
    };
    let mut ranks: Vec<f32> = ranked.chunks(size).map(rank).collect();
    let mut left = vec![true; ranks.len()];
    for _ in 0..groups.used {
        let best = best_of(&ranks);
        ranks[best] = f32::NEG_INFINITY;
        left[best] = false;
    }
    for (group, left) in ranked.chunks_mut(size).zip(left) {
        if left {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(score: Score, top_k: usize, renormalize: bool) -> Choice {
        let (bias, groups) = (Vec::new(), None);
        Choice { score, bias, groups, top_k, renormalize, epsilon: 0.0, scale: 1.0 }
    }

    fn chosen(choice: &Choice, logits: &[f32]) -> Vec<f32> {
        let (mut ranked, mut out) = (vec![0.0; logits.len()], vec![0.0; 2 * choice.top_k]);
        choice.choose(&mut logits.to_vec(), &mut ranked, &mut out);
        out
    }

    #[test]
    fn the_largest_come_first_and_sum_to_one_if_asked() {
        let logits = [0.0f32, 2.0, -1.0, 2.0, 1.0];
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        let out = chosen(&choice(Score::Softmax, 3, false), &logits);
        assert_eq!(out[..3], [1.0, 3.0, 4.0]);
        assert!((out[3] - 2f32.exp() / total).abs() < 1e-6);
        assert!((out[5] - 1f32.exp() / total).abs() < 1e-6);
        let out = chosen(&choice(Score::Softmax, 3, true), &logits);
        assert!((out[3..].iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_bias_moves_the_choice_and_no_weight() {
        let bias = vec![0.0, 0.0, 1.0, 0.0];
        let choice = Choice { bias, scale: 2.0, ..choice(Score::Sigmoid, 2, false) };
        let out = chosen(&choice, &[1.0, 2.0, 0.0, -1.0]);
        assert_eq!(out[..2], [2.0, 1.0]);
        assert_eq!(out[2], 2.0 * 0.5);
        assert!((out[3] - 2.0 * sigmoid(2.0)).abs() < 1e-6);
    }

    #[test]
    fn experts_come_from_the_best_groups() {
        let logits = [3.0f32, -9.0, 2.0, 1.0, 0.0, 0.5];
        let of = |rank, used| {
            let groups = Some(ExpertGroups { count: 3, used, rank });
            chosen(&Choice { groups, ..choice(Score::Sigmoid, 2, false) }, &logits)
        };
        assert_eq!(of(GroupRank::Largest, 1)[..2], [0.0, 1.0]);
        assert_eq!(of(GroupRank::SumOfTwoLargest, 1)[..2], [2.0, 3.0]);
        assert_eq!(of(GroupRank::SumOfTwoLargest, 2)[..2], [2.0, 3.0]);
        assert_eq!(of(GroupRank::SumOfTwoLargest, 3)[..2], [0.0, 2.0]);
    }
}
