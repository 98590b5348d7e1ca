//! `head_norm`: columns of buffers side by side, head by head: each head is normed, then rotated.
//!
//! `y = rotate(x / sqrt(mean(x^2) + eps) * weight)` for each head of each part, where a part may have no norm and may stay as it is turned
//! (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019; Su et al., "RoFormer", 2021). Softmax attention does the same by
//! itself when it fills its cache.

use kinglet_models::{Norm, Rope};

use super::{
    BufferId, Cut, Describe, MatrixSite, ProjectionInput, Scratch, Slice, StateId, SteppedState,
    Uses, Widths, Work,
};

/// Norm and rotation of heads.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadNorm {
    /// What becomes of which columns, in the order of the output.
    pub parts: Vec<HeadPart>,
    /// The rotation of the parts that are rotated.
    pub rope: Option<Rope>,
    /// `[T, sum of widths]`.
    pub output: BufferId,
}

/// Heads that are treated alike.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadPart {
    /// `[T, heads * head_dim]`.
    pub input: Slice,
    /// Width of a head.
    pub head_dim: usize,
    /// Weight `[head_dim]`, common to all heads, and epsilon of an RMS norm.
    pub norm: Option<Norm>,
    /// Whether heads are rotated after it.
    pub rotated: bool,
}

impl HeadNorm {
    /// All heads in the order of the output: the part, the head's first column in its input, and its first column in the output.
    pub fn heads(&self) -> impl Iterator<Item = (&HeadPart, usize, usize)> {
        let heads = self.parts.iter().flat_map(|part| {
            let count = part.input.width / part.head_dim.max(1);
            (0..count).map(move |head| (part, part.input.offset + head * part.head_dim))
        });
        heads.scan(0, |to, (part, from)| {
            let first = *to;
            *to += part.head_dim;
            Some((part, from, first))
        })
    }
}

impl Describe for HeadNorm {
    fn name(&self) -> &'static str {
        "head_norm"
    }

    fn uses<'a>(&'a self, uses: &mut Uses<'a>) {
        for part in &self.parts {
            if !uses.reads.contains(&part.input.buffer) {
                uses.reads.push(part.input.buffer);
            }
            part.norm.iter().for_each(|norm| uses.norm(norm));
        }
        uses.writes.push(self.output);
    }

    fn states(&self) -> Vec<SteppedState> {
        Vec::new()
    }

    fn limit_window(&mut self, _window: usize, _sinks: usize) -> Option<StateId> {
        None
    }

    fn widths(&self, _align: usize) -> Widths {
        Widths::NONE
    }

    fn scratch(&self, _cut: &Cut) -> Scratch {
        Scratch::NONE
    }

    fn loop_turns(&self) -> usize {
        1
    }

    fn work(&self, _context: usize) -> Work {
        Work::NONE
    }

    fn projection_input(&self) -> Option<ProjectionInput<'_>> {
        None
    }

    fn sites(&self) -> Vec<MatrixSite<'_>> {
        Vec::new()
    }
}
