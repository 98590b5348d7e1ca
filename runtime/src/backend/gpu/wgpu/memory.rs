//! What all dispatches of a plan share: the memory of a step, and how large it must be.

#![deny(clippy::wildcard_enum_match_arm)]

use kinglet_models as spec;

use super::device::Device;
use super::dispatch::{FEW, STEP_STRIDE};
use super::projection::PREPARED;
use super::scratch;
use crate::Error;
use crate::plan::Plan;
use crate::plan::op::{Op, Widths};

/// Memory that all dispatches share.
pub(super) struct Memory {
    /// The plan's slots, `[chunk, width]`.
    pub slots: Vec<wgpu::Buffer>,
    /// `[chunk]`: the step's tokens.
    pub tokens: wgpu::Buffer,
    /// `[chunk]`: rows whose logits are wanted.
    pub wanted: wgpu::Buffer,
    /// The kernels' `Step`s, one every `step_stride` bytes.
    pub step: wgpu::Buffer,
    /// Inputs of tiled projections, made ready.
    pub prepared: wgpu::Buffer,
    /// `[chunk]`: what products with inputs in f16 are multiplied with.
    pub factors: wgpu::Buffer,
    /// Queries of an attention layer, made ready.
    pub queries: wgpu::Buffer,
    /// `[logit_rows, vocab]`.
    pub logits: wgpu::Buffer,
    pub scratch: Scratch,
}

/// What the dispatches of an op hand one another: see [`super::scratch`].
#[derive(Clone)]
pub(super) struct Scratch {
    pub tokens: wgpu::Buffer,
    pub squares: wgpu::Buffer,
    pub states: wgpu::Buffer,
    pub chunks: wgpu::Buffer,
}

/// Cosines and sines of the positions of a step, for all layers that rotate alike.
pub(super) struct Rotation {
    pub rope: spec::Rope,
    /// `[chunk, pairs]` of cosine and sine.
    pub buffer: wgpu::Buffer,
}
impl Rotation {
    /// Cosine and sine of each position of `runs`, which are given as the kernels' `Step`s, times the attention factor.
    pub(super) fn turns(&self, runs: &[[u32; 4]]) -> Vec<[f32; 2]> {
        let mut turns = Vec::new();
        for &[_, len, position, _] in runs {
            for position in position..position + len {
                let inv_freq = self.rope.inv_freq_at(position as usize);
                turns.extend(inv_freq.iter().map(|inv| {
                    let (sin, cos) = (position as f32 * inv).sin_cos();
                    [cos * self.rope.attention_factor, sin * self.rope.attention_factor]
                }));
            }
        }
        turns
    }
}

/// Sizes of a plan that memory depends on.
pub(super) struct Sizes {
    /// Elements of the widest row of any buffer that has one for each token.
    pub widest: usize,
    /// Elements of the widest input of a tiled projection.
    pub prepared: usize,
    /// Elements of the widest row of queries.
    pub queries: usize,
    /// Most turns that a thread takes in the loops of an op for a token.
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

/// `tokens`, or as few that what ops need in between fits into a binding: whole chunks, or what goes without them.
pub(super) fn fitting(plan: &Plan, tokens: usize, bound: u64) -> usize {
    let fits = |tokens| 4 * scratch::most(plan, tokens, bound).largest() as u64 <= bound;
    let mut tokens = tokens;
    while tokens > scratch::CHUNK && !fits(tokens) {
        tokens = (tokens - 1) / scratch::CHUNK * scratch::CHUNK;
    }
    if fits(tokens) { tokens } else { tokens.min(FEW) }
}

pub(super) fn memory(
    device: &Device,
    plan: &Plan,
    sizes: &Sizes,
    chunk: usize,
    logit_rows: usize,
) -> Result<Memory, Error> {
    let storage = wgpu::BufferUsages::STORAGE;
    let written = storage | wgpu::BufferUsages::COPY_DST;
    let rows = |rows: usize, width: usize| 4 * (rows as u64).saturating_mul(width as u64);
    let slot = |width: &usize| device.buffer("activations", rows(chunk, *width), written);
    // The step, its runs, and pieces of logits: there are no more of either than tokens.
    let steps = ((2 * chunk + 2) * STEP_STRIDE) as u64;
    let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let between = scratch::most(plan, chunk, device.max_binding);
    let scratch = |elements: usize| device.buffer("scratch", rows(elements, 1), storage);
    Ok(Memory {
        slots: plan.slots.iter().map(slot).collect::<Result<_, Error>>()?,
        tokens: device.buffer("tokens", rows(chunk, 1), written | wgpu::BufferUsages::COPY_SRC)?,
        wanted: device.buffer("tokens", rows(chunk, 1), written)?,
        step: device.unbound_buffer("steps", steps, uniform)?,
        prepared: device.buffer("activations", rows(chunk, sizes.prepared), storage)?,
        factors: device.buffer("activations", rows(chunk, 1), storage)?,
        queries: device.buffer("queries", rows(chunk, sizes.queries), storage)?,
        logits: device.buffer(
            "logits",
            rows(logit_rows, plan.vocab),
            written | wgpu::BufferUsages::COPY_SRC,
        )?,
        scratch: Scratch {
            tokens: scratch(between.tokens)?,
            squares: scratch(between.squares)?,
            states: scratch(between.states)?,
            chunks: scratch(between.chunks)?,
        },
    })
}
