//! Memory that an op's dispatches hand one another within a run: the next op, and the next run, use it anew.

#![deny(clippy::wildcard_enum_match_arm)]

use crate::plan::Plan;
use crate::plan::op::{Cut, Op, Scratch};

use super::dispatch::FEW;

/// Tokens of a chunk of a scan.
pub(super) const CHUNK: usize = 64;

/// What the ops of `plan` need at most for runs of up to `tokens`; kernels see at most `bound` bytes.
pub(super) fn most(plan: &Plan, tokens: usize, bound: u64) -> Scratch {
    let cut = Cut { tokens, few: FEW, chunk: CHUNK, max_bytes: bound };
    let needed = plan.ops.iter().map(|op: &Op| op.description().scratch(&cut));
    needed.fold(Scratch::NONE, Scratch::max)
}
