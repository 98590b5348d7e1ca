//! `moe_down`: `x += scale * (sum over chosen experts of weight_e * D_e h_e + D h_shared)`.

use kinglet_models::Matrix;

use super::{BufferId, Uses};

/// Second half of the experts, their weighted sum and the residual connection.
#[derive(Clone, Debug, PartialEq)]
pub struct MoeDown {
    /// What [`MoeUp`](super::MoeUp) wrote: `[T, top_k * inner + shared_inner]`.
    pub input: BufferId,
    /// What [`MoeRoute`](super::MoeRoute) wrote.
    pub routes: BufferId,
    /// Experts per token.
    pub top_k: usize,
    /// `D_e`, `[hidden, inner]`.
    pub experts: Vec<Matrix>,
    /// `D`, `[hidden, shared_inner]`.
    pub shared: Option<Matrix>,
    /// Factor on the sum.
    pub scale: f32,
    /// `x`, `[T, hidden]`, added to.
    pub output: BufferId,
}

impl MoeDown {
    /// Width of an expert.
    pub fn inner(&self) -> usize {
        self.experts.first().map_or(0, |down| down.cols)
    }

    pub(super) fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.extend([self.input, self.routes, self.output]);
        uses.writes.push(self.output);
        uses.experts.extend(self.experts.iter().map(|down| (self.top_k, down)));
        uses.matrices.extend(&self.shared);
    }
}
