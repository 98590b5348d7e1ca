//! Memory that an op's dispatches hand one another within a run: the next op, and the next run, use it anew.

use crate::op::{Attention, Mamba2Scan, Op};
use crate::plan::Plan;

use super::dispatch::FEW;

/// Tokens of a chunk of a scan.
pub(super) const CHUNK: usize = 64;
/// Elements of a square of a chunk's tokens.
const SQUARE: usize = CHUNK * CHUNK;

/// Workgroups that a decode step's attention aims at.
const ATTENTION_GROUPS: usize = 256;
/// Most pieces of a cache: more would cost more to put together than they save.
const MOST_PIECES: usize = 64;

/// Elements of each buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// What tokens have: a convolution's outputs, or pieces of attention.
    pub tokens: usize,
    /// Squares of chunks.
    pub squares: usize,
    /// States by chunk.
    pub states: usize,
    /// What chunks have beside.
    pub chunks: usize,
}

impl Sizes {
    /// What `op` needs for runs of up to `tokens`; kernels see at most `bound` bytes.
    fn of(op: &Op, tokens: usize, bound: u64) -> Self {
        // Few tokens don't go in chunks.
        let (tokens, chunks) = if tokens > FEW { (tokens, tokens.div_ceil(CHUNK)) } else { (0, 0) };
        match op {
            Op::Mamba2Scan(op) => Self {
                tokens: tokens * op.conv.channels,
                squares: chunks * op.groups * SQUARE,
                states: chunks * state_of(op),
                chunks: chunks * op.heads,
            },
            Op::MLstmScan(op) => Self {
                tokens: 0,
                squares: chunks * op.heads * SQUARE,
                states: chunks * op.heads * op.head_state(),
                chunks: chunks * op.heads * (2 + 3 * CHUNK),
            },
            Op::Attention(op) => {
                let tokens = FEW * op.heads * pieces(op, bound) * (op.head_dim + 2);
                Self { tokens, ..Self::default() }
            }
            _ => Self::default(),
        }
    }

    /// What the ops of `plan` need at most.
    pub(super) fn most(plan: &Plan, tokens: usize, bound: u64) -> Self {
        plan.ops.iter().map(|op| Self::of(op, tokens, bound)).fold(Self::default(), |a, b| Self {
            tokens: a.tokens.max(b.tokens),
            squares: a.squares.max(b.squares),
            states: a.states.max(b.states),
            chunks: a.chunks.max(b.chunks),
        })
    }

    /// Elements of the largest buffer.
    pub(super) fn largest(self) -> usize {
        self.tokens.max(self.squares).max(self.states).max(self.chunks)
    }
}

/// Elements of all heads' states.
fn state_of(op: &Mamba2Scan) -> usize {
    op.heads * op.state_dim * op.head_dim
}

/// Into how many pieces the cache is cut for few tokens; kernels see at most `bound` bytes.
pub(super) fn pieces(op: &Attention, bound: u64) -> usize {
    let piece = 4 * (FEW * op.heads * (op.head_dim + 2)) as u64;
    let fit = usize::try_from(bound / piece).unwrap_or(usize::MAX);
    ATTENTION_GROUPS.div_ceil(op.kv_heads).min(MOST_PIECES).min(fit).max(1)
}
