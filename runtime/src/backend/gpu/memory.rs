//! The memory of a step, which all launches of a recording share: what it is and how large it must be.

use kinglet_models as spec;

use super::api::Usage;
use super::builder::Allocations;
use super::projection::PREPARED;
use super::recording::{AllocationId, FEW, MOST_RUNS, STEP_STRIDE, Step};
use super::target::Target;
use crate::Error;
use crate::plan::Plan;
use crate::plan::op::{Cut, Op, Scratch, Widths};

/// Tokens of a chunk of a scan.
pub(super) const CHUNK: usize = 64;

/// The allocations of a step.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// The plan's slots, `[chunk, width]`.
    pub slots: Vec<AllocationId>,
    /// `[chunk]`: the step's tokens.
    pub tokens: AllocationId,
    /// `[chunk]`: rows whose logits are wanted.
    pub wanted: AllocationId,
    /// The kernels' [`Step`]s, one every [`STEP_STRIDE`] bytes.
    pub step: AllocationId,
    /// Prepared inputs of tiled projections.
    pub prepared: AllocationId,
    /// `[chunk]`: factors of products whose inputs were prepared in f16.
    pub factors: AllocationId,
    /// Prepared queries of an attention layer.
    pub queries: AllocationId,
    /// `[logit_rows, vocab]`.
    pub logits: AllocationId,
    pub scratch: ScratchMemory,
}

/// Memory in which the launches of an op pass data on within a run; see [`Scratch`]. The next op, and the next run, overwrites it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScratchMemory {
    pub tokens: AllocationId,
    pub squares: AllocationId,
    pub states: AllocationId,
    pub chunks: AllocationId,
}

/// Cosines and sines of the positions of a step, for all layers with the same rotation.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    pub angles: Angles,
    /// `[chunk, pairs]` of cosine and sine.
    pub memory: AllocationId,
}

/// What turns with the position.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Angles {
    /// Pairs of elements of a head.
    Rope(spec::Rope),
    /// Sines that are added to the embeddings: `[pairs]`, the angle per position of each pair of columns.
    Sinusoid(Vec<f64>),
}

impl Angles {
    /// Number of pairs.
    pub(super) fn pairs(&self) -> usize {
        match self {
            Self::Rope(rope) => rope.inv_freq.len(),
            Self::Sinusoid(frequencies) => frequencies.len(),
        }
    }

    /// The angles at a position, and the factor on their cosines and sines.
    fn at(&self, position: usize) -> (Vec<f64>, f64) {
        match self {
            Self::Rope(rope) => (rope.angles_at(position), rope.attention_factor.into()),
            Self::Sinusoid(frequencies) => {
                (frequencies.iter().map(|inv| position as f64 * inv).collect(), 1.0)
            }
        }
    }
}

impl Rotation {
    /// Cosine and sine of each position of `runs`, times the factor.
    pub(super) fn turns(&self, runs: &[Step]) -> Vec<[f32; 2]> {
        let mut turns = Vec::new();
        for run in runs {
            for position in run.position..run.position + run.tokens {
                let (angles, factor) = self.angles.at(position as usize);
                turns.extend(angles.into_iter().map(|angle| {
                    let (sin, cos) = angle.sin_cos();
                    [(cos * factor) as f32, (sin * factor) as f32]
                }));
            }
        }
        turns
    }
}

#[cfg(test)]
#[test]
fn turns_are_exact_far_away() {
    let angles = Angles::Sinusoid(spec::Positions::sinusoid(8));
    let rotation = Rotation { angles, memory: AllocationId(0) };
    let run = Step { position: 100_000_000, tokens: 1, ..Step::default() };
    for (i, [cos, sin]) in rotation.turns(&[run]).into_iter().enumerate() {
        let angle = 1e8 / 10000f64.powf(2.0 * i as f64 / 8.0);
        assert_eq!([cos, sin], [angle.cos() as f32, angle.sin() as f32]);
    }
}

/// Sizes of a plan that its memory depends on.
pub(super) struct Sizes {
    /// Elements of the widest row of any buffer that has one for each token.
    pub widest: usize,
    /// Elements of the widest prepared input of a tiled projection.
    pub prepared: usize,
    /// Elements of the widest row of queries.
    pub queries: usize,
    /// Most iterations that a thread spends in the loops of an op for a token.
    pub turns: usize,
}

impl Sizes {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut turns = 1;
        // No buffer is empty.
        let mut widths = Widths { prepared: 1, queries: 1, shares: 1 };
        for op in plan.ops.iter().map(Op::description) {
            turns = turns.max(op.loop_turns());
            widths = widths.max(op.widths(PREPARED));
        }
        let Widths { prepared, queries, shares } = widths;
        let prepared = prepared.next_multiple_of(PREPARED);
        let slots = plan.slots.iter().copied().max().unwrap_or(0);
        Self { widest: slots.max(prepared).max(queries).max(shares), prepared, queries, turns }
    }
}

/// The scratch memory that the ops of `plan` need for runs of up to `tokens`, where a kernel can bind `bound` bytes.
fn scratch(plan: &Plan, tokens: usize, bound: u64) -> Scratch {
    let cut = Cut { tokens, few: FEW, chunk: CHUNK, max_bytes: bound };
    let needed = plan.ops.iter().map(|op: &Op| op.description().scratch(&cut));
    needed.fold(Scratch::NONE, Scratch::max)
}

/// `tokens`, or fewer: as many that scratch memory fits into a binding. Whole chunks, or so few that they aren't cut into chunks.
fn fitting(plan: &Plan, tokens: usize, bound: u64) -> usize {
    let fits = |tokens| 4 * scratch(plan, tokens, bound).largest() as u64 <= bound;
    let mut tokens = tokens;
    while tokens > CHUNK && !fits(tokens) {
        tokens = (tokens - 1) / CHUNK * CHUNK;
    }
    if fits(tokens) { tokens } else { tokens.min(FEW) }
}

/// Allocates the memory of steps of up to `chunk` tokens.
///
/// # Errors
/// When a buffer would be larger than a kernel can bind.
pub(super) fn memory(
    allocations: &mut Allocations<'_>,
    plan: &Plan,
    sizes: &Sizes,
    chunk: usize,
    logit_rows: usize,
) -> Result<Memory, Error> {
    let rows = |rows: usize, width: usize| 4 * (rows as u64).saturating_mul(width as u64);
    let between = scratch(plan, chunk, allocations.target.max_binding);
    // The step, its runs, and pieces of logits: there are no more of either than tokens. Then what the last run's binding covers besides.
    let steps = ((2 * chunk + 1 + MOST_RUNS) * STEP_STRIDE) as u64;
    let step = allocations.unbound("steps", "steps", steps, Usage::Uniform);
    let mut one = |what, name: &str, bytes| allocations.bound(what, name, bytes, Usage::Storage);
    let mut slots = Vec::new();
    for (slot, width) in plan.slots.iter().enumerate() {
        slots.push(one("activations", &format!("slot {slot}"), rows(chunk, *width))?);
    }
    Ok(Memory {
        slots,
        tokens: one("tokens", "tokens", rows(chunk, 1))?,
        wanted: one("tokens", "wanted rows", rows(chunk, 1))?,
        step,
        prepared: one("activations", "prepared input", rows(chunk, sizes.prepared))?,
        factors: one("activations", "factors", rows(chunk, 1))?,
        queries: one("queries", "queries", rows(chunk, sizes.queries))?,
        logits: one("logits", "logits", rows(logit_rows, plan.vocab))?,
        scratch: ScratchMemory {
            tokens: one("scratch", "scratch tokens", rows(between.tokens, 1))?,
            squares: one("scratch", "scratch squares", rows(between.squares, 1))?,
            states: one("scratch", "scratch states", rows(between.states, 1))?,
            chunks: one("scratch", "scratch chunks", rows(between.chunks, 1))?,
        },
    })
}

/// The most tokens of a step, at most `asked`, whose memory the device allows; a thread may take `most_turns` iterations.
pub(super) fn chunk(
    plan: &Plan,
    sizes: &Sizes,
    target: &Target,
    asked: usize,
    most_turns: usize,
) -> usize {
    let bound = usize::try_from(target.max_binding).unwrap_or(usize::MAX);
    let chunk = asked
        .min(most_turns / sizes.turns)
        .min(bound / (4 * sizes.widest).max(1))
        .min(target.max_groups as usize)
        .max(1);
    fitting(plan, chunk, target.max_binding)
}
