//! The keys that a query of `hybrid_attention` sees, as spans of rows at equal distances: in the state, among the run's own keys, or among
//! the means of blocks that became complete in the run.

use crate::plan::op::{self, HybridLayout};

/// Rows of a buffer, from the first element of the first row on.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
}

impl<'a> Strided<'a> {
    /// From row `row` on, every `step`th of them.
    fn from(self, row: usize, step: usize) -> Self {
        Self {
            data: self.data.get(row * self.stride..).unwrap_or_default(),
            stride: self.stride * step,
        }
    }

    /// `width` elements of row `row`.
    pub(super) fn row(self, row: usize, width: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..width]
    }
}

/// Keys, values and scores of a key/value head, by row.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub keys: Strided<'a>,
    pub values: Strided<'a>,
    /// One number a row; `None` for 0.
    pub scores: Option<Strided<'a>>,
}

impl<'a> Table<'a> {
    fn from(self, row: usize, step: usize) -> Self {
        Self {
            keys: self.keys.from(row, step),
            values: self.values.from(row, step),
            scores: self.scores.map(|scores| scores.from(row, step)),
        }
    }

    /// Copies key, value and score of a row.
    pub(super) fn copy(self, row: usize, dim: usize, out: &mut [f32]) {
        out[..dim].copy_from_slice(self.keys.row(row, dim));
        out[dim..2 * dim].copy_from_slice(self.values.row(row, dim));
        out[2 * dim] = self.scores.map_or(0.0, |scores| scores.row(row, 1)[0]);
    }

    /// `rows` copied rows, one after another.
    pub(super) fn records(data: &'a [f32], dim: usize) -> Self {
        let part =
            |start: usize| Strided { data: &data[start.min(data.len())..], stride: 2 * dim + 1 };
        Self { keys: part(0), values: part(dim), scores: Some(part(2 * dim)) }
    }
}

/// Some rows of a table.
pub(super) struct Span<'a> {
    pub table: Table<'a>,
    pub count: usize,
}

/// A key/value head of a run.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub op: &'a op::HybridAttention,
    pub layout: &'a HybridLayout,
    /// The run's own keys.
    pub own: Table<'a>,
    /// Position of the run's first token.
    pub start: usize,
    /// Its tokens.
    pub len: usize,
}

/// What a chosen key's slot holds, in the list of a token.
pub(super) mod code {
    /// Nothing.
    pub(crate) const NONE: usize = 0;
    /// What the state holds in the same slot.
    pub(crate) const HELD: usize = 1;
    /// The key that leaves the window at the first token of the run; then one for each further token.
    pub(crate) const LEAVING: usize = 2;
}

impl<'a> Head<'a> {
    /// Query heads that share the head.
    pub(super) fn group(&self) -> usize {
        self.op.heads / self.op.kv_heads.max(1)
    }

    /// The rows of the state of this head.
    pub(super) fn held(&self, state: &'a [f32]) -> Table<'a> {
        let (layout, dim) = (self.layout, self.layout.dim);
        let from = |first: usize, stride: usize| Strided { data: &state[first..], stride };
        Table {
            keys: from(0, dim),
            values: from(layout.values(), dim),
            scores: Some(from(layout.scores(), 1)),
        }
    }

    /// The first position of the sequence, by the number of tokens that the state has seen.
    pub(super) fn first_position(&self, state: &[f32]) -> usize {
        self.start.saturating_sub(pair(&state[self.layout.seen()..]))
    }

    /// The key at `j`, which is the run's or still in the ring: its table and row.
    pub(super) fn key(&self, held: Table<'a>, j: usize) -> (Table<'a>, usize) {
        match j.checked_sub(self.start) {
            Some(own) => (self.own, own),
            None => (held, j % self.layout.ring),
        }
    }

    /// The number of blocks of a level that are complete before the run.
    pub(super) fn done(&self, level: usize) -> usize {
        self.start.saturating_sub(self.op.tiers.window) / self.op.block_size(level)
    }

    /// The row of a block's mean in the state.
    pub(super) fn mean_row(&self, level: usize, block: usize) -> usize {
        self.layout.means + level * self.layout.mean_ring + block % self.layout.mean_ring
    }

    /// Whether the query at `t` sees the key at `j`, which is outside its window, as a first or as a dilated one.
    fn sees_anyway(&self, t: usize, j: usize) -> bool {
        let tiers = &self.op.tiers;
        let dilated = |level: usize| {
            let (near, far) = tiers.dilated(level);
            (near..far).contains(&(t - j)) && j.is_multiple_of(1 << level)
        };
        j < tiers.global_first
            || (t < tiers.dilated_until && (1..=self.layout.levels.len()).any(dilated))
    }

    /// Visits what the query at `t` sees, chosen keys apart. `means` are the records of blocks that became complete in the run, by level.
    pub(super) fn visit(
        &self,
        t: usize,
        state: &'a [f32],
        means: &'a [f32],
        visit: &mut impl FnMut(Span<'a>),
    ) {
        let (tiers, held) = (&self.op.tiers, self.held(state));
        let first = self.first_position(state);
        let oldest = (t + 1).saturating_sub(tiers.window);
        if t < tiers.full_until {
            self.positions(held, first, t, 0, visit);
            return;
        }
        self.positions(held, oldest.max(first), t, 0, visit);
        // Keys before the window.
        let firsts = tiers.global_first.min(oldest);
        let (in_state, in_run) = (firsts.min(self.start), firsts.saturating_sub(self.start));
        if in_state > first {
            let table = held.from(self.layout.first + first, 1);
            visit(Span { table, count: in_state - first });
        }
        if in_run > 0 {
            visit(Span { table: self.own, count: in_run });
        }
        if t < tiers.dilated_until {
            for level in 1..=self.layout.levels.len() {
                let (near, far) = tiers.dilated(level);
                let Some(last) = t.checked_sub(near) else { break };
                let from = (t + 1).saturating_sub(far).max(first).max(tiers.global_first);
                self.positions(held, from, last, level, visit);
            }
        }
        if t >= tiers.linear_until {
            let mut before = 0;
            for (level, blocks) in self.op.blocks(self.len).into_iter().enumerate() {
                let (size, done) = (self.op.block_size(level), self.done(level));
                let complete = oldest / size;
                let from = complete.saturating_sub(tiers.hierarchy_width);
                let from = from.max(first.div_ceil(size));
                let mut block = from;
                while block < complete.min(done) {
                    let row = self.mean_row(level, block);
                    let wrap = self.layout.mean_ring - block % self.layout.mean_ring;
                    let count = wrap.min(complete.min(done) - block);
                    visit(Span { table: held.from(row, 1), count });
                    block += count;
                }
                let block = from.max(done);
                if block < complete {
                    let record = 2 * self.layout.dim + 1;
                    let own = &means[(before + block - done) * record..];
                    let table = Table::records(own, self.layout.dim);
                    visit(Span { table, count: complete - block });
                }
                before += blocks;
            }
        }
    }

    /// Visits the keys at multiples of `2^level` from position `from` to `last`.
    fn positions(
        &self,
        held: Table<'a>,
        from: usize,
        last: usize,
        level: usize,
        visit: &mut impl FnMut(Span<'a>),
    ) {
        let step = 1 << level;
        let mut j = from.next_multiple_of(step);
        let ring = self.layout.ring;
        // The number of keys from `j` on that lie before position `end`.
        let before = |j: usize, end: usize| end.saturating_sub(j).div_ceil(step);
        let dropped = self.start.saturating_sub(ring).min(last + 1);
        while j < dropped {
            let Some(&(row, count)) = self.layout.levels.get(level - 1) else { return };
            let slot = (j >> level) % count;
            let count = before(j, dropped).min(count - slot);
            visit(Span { table: held.from(row + slot, 1), count });
            j += count * step;
        }
        while j < self.start.min(last + 1) {
            let slot = j % ring;
            let count = before(j, self.start.min(last + 1)).min((ring - slot).div_ceil(step));
            visit(Span { table: held.from(slot, step), count });
            j += count * step;
        }
        if j <= last {
            let table = self.own.from(j - self.start, step);
            visit(Span { table, count: before(j, last + 1) });
        }
    }

    /// Copies the chosen keys that token `i` of the run sees only as such to `out`. Returns how many there are.
    pub(super) fn chosen(
        &self,
        i: usize,
        state: &'a [f32],
        codes: &[f32],
        out: &mut [f32],
    ) -> usize {
        let (t, held, record) = (self.start + i, self.held(state), 2 * self.layout.dim + 1);
        if t < self.op.tiers.full_until {
            return 0;
        }
        let mut count = 0;
        for (slot, &code) in codes.iter().enumerate() {
            let (j, (table, row)) = match code as usize {
                code::NONE => continue,
                code::HELD => {
                    let j = pair(&state[self.layout.positions() + 2 * slot..]);
                    (j, (held, self.layout.top + slot))
                }
                leaving => {
                    let j = self.start + (leaving - code::LEAVING) - self.op.tiers.window;
                    (j, self.key(held, j))
                }
            };
            if !self.sees_anyway(t, j) {
                table.copy(row, self.layout.dim, &mut out[count * record..]);
                count += 1;
            }
        }
        count
    }
}

/// A whole number in two numbers of at most 16 bits, the high one first.
pub(super) fn pair(numbers: &[f32]) -> usize {
    match numbers {
        [high, low, ..] => *high as usize * 65536 + *low as usize,
        _ => 0,
    }
}

/// Stores a whole number as [`pair`] reads it.
pub(super) fn set_pair(numbers: &mut [f32], value: usize) {
    if let [high, low, ..] = numbers {
        (*high, *low) = ((value / 65536) as f32, (value % 65536) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_up_to_a_hundred_million_are_exact() {
        let mut numbers = [0.0; 2];
        for position in [0, 1, 65535, 65536, 16777217, 99999999, 100000000, 4294967295] {
            set_pair(&mut numbers, position);
            assert_eq!(pair(&numbers), position);
        }
    }
}
