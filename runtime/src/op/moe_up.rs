//! `moe_up`: `h_e = act(G_e n(x)) * (U_e n(x))` for each chosen expert `e` of a token, and for the shared expert.

use kinglet_models::{Activation, Matrix, Norm};

use super::{BufferId, Uses};

/// First half of the experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeUp {
    /// `x`, `[T, hidden]`.
    pub input: BufferId,
    /// `n`.
    pub norm: Norm,
    /// What [`MoeRoute`](super::MoeRoute) wrote.
    pub routes: BufferId,
    /// Experts per token.
    pub top_k: usize,
    /// `(G_e, U_e)`, `[inner, hidden]` each.
    pub experts: Vec<(Matrix, Matrix)>,
    /// `(G, U)` of the expert that sees every token, `[shared_inner, hidden]`.
    pub shared: Option<(Matrix, Matrix)>,
    /// `act`.
    pub activation: Activation,
    /// `[T, top_k * inner + shared_inner]`.
    pub output: BufferId,
}

impl MoeUp {
    /// Width of an expert.
    pub fn inner(&self) -> usize {
        self.experts.first().map_or(0, |(gate, _)| gate.rows)
    }

    /// Width of the shared expert; 0 without one.
    pub fn shared_inner(&self) -> usize {
        self.shared.as_ref().map_or(0, |(gate, _)| gate.rows)
    }

    pub(super) fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend([self.input, self.routes]);
        uses.writes.push(self.output);
        uses.norm(&self.norm);
        for (gate, up) in &self.experts {
            uses.experts.extend([(self.top_k, gate), (self.top_k, up)]);
        }
        if let Some((gate, up)) = &self.shared {
            uses.matrices.extend([gate, up]);
        }
    }
}
