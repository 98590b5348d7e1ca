//! `head`: `z = scale * (W n(x) + b)`, capped softly where the model asks for it, for the tokens whose logits are wanted.

use kinglet_models::{self as spec, Norm};

use super::{BufferId, Uses};

/// Logits of some of a step's tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// `x`, `[T, hidden]`.
    pub input: BufferId,
    /// `n`; without it the input as it is.
    pub norm: Option<Norm>,
    /// `W`, `[vocab, hidden]`.
    pub linear: spec::Linear,
    /// Factor on the logits.
    pub scale: f32,
    /// `cap * tanh(z / cap)`.
    pub soft_cap: Option<f32>,
}

impl Head {
    pub(super) fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        uses.reads.push(self.input);
        if let Some(norm) = &self.norm {
            uses.norm(norm);
        }
        uses.linear(&self.linear);
    }
}
