//! `gated_linear`: `h = act(G n(x) + b_g) * (U n(x) + b_u)`, the first half of a gated feed-forward network, with its norm.

use kinglet_models::{self as spec, Activation, Norm};

use super::{BufferId, Uses};

/// Two projections of the normed input, one gating the other.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedLinear {
    /// `x`, `[T, hidden]`.
    pub input: BufferId,
    /// `n`.
    pub norm: Norm,
    /// `G`, `[inner, hidden]`.
    pub gate: spec::Linear,
    /// `U`, `[inner, hidden]`.
    pub up: spec::Linear,
    /// `act`.
    pub activation: Activation,
    /// `h`, `[T, inner]`.
    pub output: BufferId,
}

impl GatedLinear {
    pub(super) fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        uses.writes.push(self.output);
        uses.norm(&self.norm);
        uses.linear(&self.gate);
        uses.linear(&self.up);
    }
}
