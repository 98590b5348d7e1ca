//! `embed`: `x = scale * E[token]`.

use kinglet_models::Matrix;

use super::{BufferId, Uses};

/// Token embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// `E`, `[vocab, hidden]`.
    pub table: Matrix,
    /// Factor on every row.
    pub scale: f32,
    /// `[T, hidden]`.
    pub output: BufferId,
}

impl Embed {
    /// The table is not among the matrices: a token reads one row of it.
    pub(super) fn uses(&self, uses: &mut Uses<'_>) {
        uses.writes.push(self.output);
    }
}
