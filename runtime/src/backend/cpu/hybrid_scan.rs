//! The first pass of `hybrid_attention` on the CPU: the keys that leave the window go, one after another, into the choice of global keys, the
//! hierarchy and the linear memory, which the queries of the same token read.

use super::hybrid_keys::{Head, Strided, code, pair};
use super::kernel::compensated::{AddTo, EluPlusOne, SumStep};
use super::simd::Isa;
use crate::plan::op;

/// The keys of a run that leave the window, one after another.
pub(super) struct Scan<'a> {
    pub isa: Isa,
    pub head: Head<'a>,
    /// The rows of the queries of this head's group.
    pub queries: Strided<'a>,
}

impl Scan<'_> {
    /// Elements of `local` that [`Self::run`] needs.
    pub(super) fn local_len(op: &op::HybridAttention) -> usize {
        let (dim, group) = (op.head_dim, op.heads / op.kv_heads.max(1));
        2 * (2 * dim + 1) + dim * (2 + group) + 1
    }

    /// Writes the codes of the chosen keys, `[tokens, global_top]`, the records of blocks that become complete, by level, and what the
    /// queries read in the linear memory with the sum of weights, `[tokens, group, head_dim + 1]`.
    pub(super) fn run(
        &self,
        local: &mut [f32],
        state: &mut [f32],
        chosen: &mut [f32],
        means: &mut [f32],
        recalled: &mut [f32],
    ) {
        let head = &self.head;
        let (op, layout) = (head.op, head.layout);
        let (dim, group) = (layout.dim, head.group());
        let (record, local) = local.split_at_mut(2 * dim + 1);
        let (mean, local) = local.split_at_mut(2 * dim + 1);
        let first = head.first_position(state);
        let mut slots = Slots::of(head, state, first);
        let recalled = recalled.chunks_mut((group * (dim + 1)).max(1));
        for (i, recalled) in (0..head.len).zip(recalled) {
            let t = head.start + i;
            if let Some(j) = t.checked_sub(op.tiers.window).filter(|&j| j >= first) {
                let (table, row) = match j.checked_sub(head.start) {
                    Some(own) => (head.own, own),
                    None => (head.held(state), j % layout.ring),
                };
                table.copy(row, dim, record);
                slots.offer(j, record[2 * dim], i);
                self.fold(j, record, mean, state, means);
                let queries =
                    (t >= op.tiers.dilated_until).then(|| self.queries.row(i, group * dim));
                self.remember(record, queries.unwrap_or_default(), local, state, recalled);
            }
            slots.write(&mut chosen[i * layout.top_count..][..layout.top_count]);
        }
    }

    /// Adds a key's record to the hierarchy.
    fn fold(
        &self,
        j: usize,
        record: &[f32],
        mean: &mut [f32],
        state: &mut [f32],
        means: &mut [f32],
    ) {
        let (layout, head) = (self.head.layout, &self.head);
        let (levels, dim, block) = (head.op.mean_levels(), layout.dim, head.op.block_size(0));
        if levels == 0 {
            return;
        }
        let complete = (j + 1).is_multiple_of(block);
        // Key, value and score of the open block; what they rounded off is in the next row.
        for (table, from, width) in
            [(0, 0, dim), (layout.values(), dim, dim), (layout.scores(), 2 * dim, 1)]
        {
            let open = &mut state[table + layout.open * width..][..2 * width];
            let (high, low) = open.split_at_mut(width);
            let x = &record[from..from + width];
            self.isa.dispatch(AddTo { x, high: &mut *high, low: &mut *low });
            if complete {
                let sums = high.iter().zip(&*low).map(|(high, low)| (high + low) / block as f32);
                mean[from..from + width].iter_mut().zip(sums).for_each(|(mean, sum)| *mean = sum);
                open.fill(0.0);
            }
        }
        if !complete {
            return;
        }
        let (mut b, mut before) = (j / block, 0);
        let held = head.held(state);
        let capacities = head.op.blocks(head.len);
        for (level, capacity) in capacities.into_iter().enumerate() {
            let done = head.done(level);
            let at = |block: usize| (before + block - done) * record.len();
            means[at(b)..][..record.len()].copy_from_slice(mean);
            if b.is_multiple_of(2) {
                break;
            }
            // The block of the next level is this one and the one before it.
            let half = |a: &mut f32, b: f32| *a = 0.5 * (*a + b);
            if b > done {
                let other = &means[at(b - 1)..][..record.len()];
                mean.iter_mut().zip(other).for_each(|(a, b)| half(a, *b));
            } else {
                let row = head.mean_row(level, b - 1);
                let (key, value) = (held.keys.row(row, dim), held.values.row(row, dim));
                let score = held.scores.map(|scores| scores.row(row, 1)).unwrap_or_default();
                let other = key.iter().chain(value).chain(score);
                mean.iter_mut().zip(other).for_each(|(a, b)| half(a, *b));
            }
            (b, before) = (b / 2, before + capacity);
        }
    }

    /// Adds a key's record to the linear memory, and reads that for `queries`.
    fn remember(
        &self,
        record: &[f32],
        queries: &[f32],
        local: &mut [f32],
        state: &mut [f32],
        recalled: &mut [f32],
    ) {
        let layout = self.head.layout;
        let dim = layout.dim;
        let (key, local) = local.split_at_mut(dim);
        let (value, local) = local.split_at_mut(dim + 1);
        // The sum of weights is the sum of a value that is always 1.
        value[..dim].copy_from_slice(&record[dim..2 * dim]);
        value[dim] = 1.0;
        let features = &mut local[..queries.len()];
        self.isa.dispatch(EluPlusOne { x: &record[..dim], out: &mut *key });
        self.isa.dispatch(EluPlusOne { x: queries, out: &mut *features });
        let memory = &mut state[layout.memory()..];
        let (high, low) = memory.split_at_mut(layout.memory_len());
        self.isa.dispatch(SumStep { queries: features, key, value, out: recalled, high, low });
    }
}

/// The keys outside the window with the largest scores.
struct Slots {
    /// Rounded score, position and code of each.
    held: Vec<(f32, usize, usize)>,
    most: usize,
}

impl Slots {
    /// As the state has them.
    fn of(head: &Head<'_>, state: &[f32], first: usize) -> Self {
        let (layout, window) = (head.layout, head.op.tiers.window);
        let most = layout.top_count;
        let left = head.start.saturating_sub(window).saturating_sub(first);
        let slot = |slot: usize| {
            let score = state[layout.scores() + layout.top + slot];
            (rounded(score), pair(&state[layout.positions() + 2 * slot..]), code::HELD)
        };
        let mut held = Vec::with_capacity(most);
        held.extend((0..left.min(most)).map(slot));
        Self { held, most }
    }

    /// A key leaves the window at token `i` of the run.
    fn offer(&mut self, j: usize, score: f32, i: usize) {
        let new = (rounded(score), j, code::LEAVING + i);
        if self.held.len() < self.most {
            return self.held.push(new);
        }
        // Of equal scores the latest goes first.
        let worst = self.held.iter_mut().min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        if let Some(worst) = worst.filter(|worst| new.0 > worst.0) {
            *worst = new;
        }
    }

    /// Writes the code of each slot.
    fn write(&self, out: &mut [f32]) {
        out.fill(code::NONE as f32);
        out.iter_mut().zip(&self.held).for_each(|(out, slot)| *out = slot.2 as f32);
    }
}

/// `floor(1024 s + 0.5)`, exactly.
fn rounded(score: f32) -> f32 {
    let steps = 1024.0 * score;
    let below = steps.floor();
    // Equal zeros compare as equal.
    if steps - below >= 0.5 { below + 1.0 } else { below + 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_rounded_exactly() {
        let cases = [(0.0, 0.0), (0.5 / 1024.0, 1.0), (-0.5 / 1024.0, 0.0), (-0.6 / 1024.0, -1.0)];
        for (score, expected) in cases {
            assert_eq!(rounded(score), expected, "{score}");
        }
        // The sum with 0.5 would round up.
        assert_eq!(rounded(0.49999997 / 1024.0), 0.0);
        assert_eq!(rounded(8388609.0 / 1024.0), 8388609.0);
    }
}
