//! [`Step`]: an op's view of a step: tokens, runs, buffers, scratch memory, threads.

use super::simd::Isa;
use super::split::{Chunks, Columns, PerRun, chunks, columns, per_run};
use super::state::CpuState;
use super::team::Team;
use crate::backend::executable::Logits;
use crate::error::grow;
use crate::plan::Plan;
use crate::plan::op::{BufferId, Slice, StateId};
use crate::{Activations, Error};

/// One sequence's part of a step: rows `start..start + len` of every buffer.
pub(super) struct StepRun<'a> {
    pub start: usize,
    pub len: usize,
    pub state: &'a mut CpuState,
    pub wanted: Logits,
    pub logits: &'a mut Vec<f32>,
    /// Where the residual stream of its tokens goes, if anywhere.
    pub stream: Option<&'a mut Vec<f32>>,
}

/// Splits the output of a scan, `[tokens, heads * head_dim]`, and the runs' states by run and head. Task `run * heads + head` gets the
/// head's columns of the run's rows, and the `head_state` elements of `state` that belong to the head.
pub(super) fn by_head<'a>(
    runs: &'a mut [StepRun<'_>],
    mut output: &'a mut [f32],
    state: StateId,
    heads: usize,
    head_dim: usize,
    head_state: usize,
) -> PerRun<(Columns<'a>, Chunks<'a, f32>)> {
    let width = heads * head_dim;
    let mut splits = Vec::with_capacity(runs.len());
    for run in runs {
        let (own, rest) = output.split_at_mut(run.len * width);
        output = rest;
        let state = chunks(run.state.dense(state), head_state);
        splits.push((columns(own, width, width, head_dim), state));
    }
    per_run(splits, heads)
}

pub(super) struct Step<'s, 'r> {
    pub team: &'s Team,
    pub isa: Isa,
    /// The tokens of all runs, concatenated.
    pub tokens: &'s [u32],
    /// `[tokens, width]`: used in place of the tokens' embeddings.
    pub vectors: Option<&'s [f32]>,
    pub runs: &'s mut [StepRun<'r>],
    pub buffers: &'s mut Buffers,
    pub scratch: &'s mut Scratch,
    pub locals: &'s mut Locals,
    pub activations: Activations,
}

/// Memory that is kept from step to step.
pub(super) struct Workspace {
    pub buffers: Buffers,
    pub scratch: Scratch,
    pub locals: Locals,
}

impl Workspace {
    pub(super) fn new(plan: &Plan, threads: usize) -> Self {
        Self {
            buffers: Buffers {
                shapes: plan.buffers.iter().map(|buffer| (buffer.slot, buffer.width)).collect(),
                slot_widths: plan.slots.clone(),
                slots: plan.slots.iter().map(|_| Vec::new()).collect(),
                tokens: 0,
            },
            scratch: Scratch(Vec::new()),
            locals: Locals(vec![Vec::new(); threads]),
        }
    }

    /// Makes room for a step of `tokens` tokens.
    pub(super) fn resize(&mut self, tokens: usize) -> Result<(), Error> {
        let buffers = &mut self.buffers;
        buffers.tokens = tokens;
        for (slot, width) in buffers.slots.iter_mut().zip(&buffers.slot_widths) {
            grow(slot, tokens.saturating_mul(*width), "activations")?;
        }
        Ok(())
    }
}

/// The plan's buffers, each `[tokens, width]` at the front of its slot.
pub(super) struct Buffers {
    shapes: Vec<(usize, usize)>,
    slot_widths: Vec<usize>,
    slots: Vec<Vec<f32>>,
    tokens: usize,
}

impl Buffers {
    pub(super) fn width(&self, id: BufferId) -> usize {
        self.shapes[id.0].1
    }

    pub(super) fn get(&self, id: BufferId) -> &[f32] {
        let (slot, width) = self.shapes[id.0];
        &self.slots[slot][..self.tokens * width]
    }

    /// The elements of a slice from its first on, and the distance between rows.
    pub(super) fn slice(&self, slice: Slice) -> (&[f32], usize) {
        (&self.get(slice.buffer)[slice.offset..], self.width(slice.buffer))
    }

    /// Takes a buffer out, to write it while others are read. [`Self::put`] returns it.
    pub(super) fn take(&mut self, id: BufferId) -> TakenBuffer {
        let (slot, width) = self.shapes[id.0];
        TakenBuffer {
            slot,
            len: self.tokens * width,
            memory: std::mem::take(&mut self.slots[slot]),
        }
    }

    pub(super) fn put(&mut self, taken: TakenBuffer) {
        self.slots[taken.slot] = taken.memory;
    }
}

/// A buffer taken out of [`Buffers`].
pub(super) struct TakenBuffer {
    slot: usize,
    len: usize,
    memory: Vec<f32>,
}

impl TakenBuffer {
    pub(super) fn data(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

/// Memory used within an op. Returned memory is reused, so nothing is allocated after the first
/// step.
pub(super) struct Scratch(Vec<Vec<f32>>);

impl Scratch {
    /// Takes at least `len` elements of unspecified content.
    pub(super) fn take(&mut self, len: usize) -> Result<Vec<f32>, Error> {
        let enough = (0..self.0.len()).filter(|&i| self.0[i].len() >= len);
        let best = enough.min_by_key(|&i| self.0[i].len());
        let best = best.or_else(|| (0..self.0.len()).max_by_key(|&i| self.0[i].len()));
        let mut vec = best.map(|i| self.0.swap_remove(i)).unwrap_or_default();
        grow(&mut vec, len, "scratch memory")?;
        Ok(vec)
    }

    pub(super) fn give(&mut self, vec: Vec<f32>) {
        self.0.push(vec);
    }
}

/// Scratch memory of each thread.
pub(super) struct Locals(Vec<Vec<f32>>);

impl Locals {
    /// One vector per thread, each at least `len` elements long.
    pub(super) fn get(&mut self, len: usize) -> Result<&mut [Vec<f32>], Error> {
        for local in &mut self.0 {
            grow(local, len, "scratch memory")?;
        }
        Ok(&mut self.0)
    }
}
