//! Which experts see a token, and with what weight.

use crate::spec::{Linear, TensorSpec};

/// Chooses `top_k` experts of a token: those with the largest `score + selection_bias`, within the groups that are used.
///
/// With `s = score(R x)`, the weight of a chosen expert is `scale * s`, or `scale * s / (epsilon + sum of s over the chosen)` where
/// `renormalize` says so. The bias only takes part in the choice (Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for
/// Mixture-of-Experts", 2024, eq. 3; DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 2.1.2).
///
/// A softmax over the chosen logits alone (Mixtral) is the softmax over all, renormalized. A temperature is [`Linear::scale`].
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// `R`, `[experts, hidden]`.
    pub linear: Linear,
    /// From logits to scores.
    pub score: Score,
    /// `[experts]`, added to the scores for the choice alone (`e_score_correction_bias`).
    pub selection_bias: Option<TensorSpec>,
    /// Groups of experts, of which a token uses some.
    pub groups: Option<ExpertGroups>,
    /// Experts of a token.
    pub top_k: usize,
    /// Whether the chosen experts' scores are divided by their sum.
    pub renormalize: bool,
    /// Added to that sum, since sigmoids can all be 0.
    pub epsilon: f32,
    /// Factor on the weights (`routed_scaling_factor`).
    pub scale: f32,
}

/// What makes a router's logits scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Score {
    /// The softmax over all experts.
    Softmax,
    /// `sigmoid`, of each expert by itself.
    Sigmoid,
}

/// Equal groups of experts that lie side by side; experts are only chosen in the best of them (DeepSeek-AI, "DeepSeek-V2", 2024,
/// section 2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExpertGroups {
    /// Groups: a divisor of the number of experts.
    pub count: usize,
    /// Groups that a token uses.
    pub used: usize,
    /// What a group is ranked by.
    pub rank: GroupRank,
}

/// What a group of experts is ranked by: scores with the selection bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupRank {
    /// The largest (DeepSeek-V2).
    Largest,
    /// The sum of the two largest (DeepSeek-V3); of groups of one expert, the largest.
    SumOfTwoLargest,
}

impl Router {
    /// The `top_k` largest of a softmax.
    pub fn softmax(linear: Linear, top_k: usize, renormalize: bool) -> Self {
        Self {
            linear,
            score: Score::Softmax,
            selection_bias: None,
            groups: None,
            top_k,
            renormalize,
            epsilon: 0.0,
            scale: 1.0,
        }
    }

    /// Experts to choose from.
    pub fn experts(&self) -> usize {
        self.linear.weight.rows
    }

    /// The same for the first `experts`, over `hidden` columns.
    pub(super) fn sized(&self, experts: usize, hidden: usize) -> Self {
        Self {
            linear: self.linear.sized(experts, hidden),
            selection_bias: self.selection_bias.as_ref().map(|bias| bias.sized([experts])),
            groups: self.groups.filter(|groups| {
                let each = experts / groups.count.max(1);
                each * groups.count == experts && each * groups.used >= self.top_k
            }),
            ..self.clone()
        }
    }

    /// In words, what is not a plain softmax.
    pub(super) fn words(&self) -> String {
        let mut text = String::new();
        if let Some(ExpertGroups { count, used, rank: _ }) = self.groups {
            text += &format!(", in {used} of {count} groups");
        }
        match self.score {
            Score::Softmax => {}
            Score::Sigmoid => text += ", sigmoid scores",
        }
        if self.selection_bias.is_some() {
            text += ", biased choice";
        }
        if self.scale != 1.0 {
            text += &format!(", times {}", self.scale);
        }
        text
    }
}
