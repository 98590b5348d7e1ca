//! The key/value cache of an attention layer on the device.
//!
//! States that were forked from one another share it. The state that holds the most positions appends in place; the others never read past their
//! own end. Any other state copies the cache first. With a window, new positions overwrite those that have left it, which other states may still
//! read: so a cache knows how many positions each state holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::api::{Commands, Gpu, Usage};
use super::target::{Target, lock};
use crate::Error;
use crate::plan::op::AttentionSpan;

/// Positions that a new cache has room for.
const FIRST_CAPACITY: usize = 64;
/// Label in allocation errors.
const WHAT: &str = "a key/value cache";

/// What all caches of a layer have in common.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// Bytes of the keys, and of the values, of a position.
    pub rows: [u64; 2],
    /// Positions that a token sees.
    pub span: AttentionSpan,
    /// Most tokens of a step.
    pub chunk: usize,
}

impl Form {
    /// The most positions that a cache holds: a step's first query must still see its window when the last key has been written.
    fn most(self) -> usize {
        let AttentionSpan { window, sinks } = self.span;
        window.map_or(usize::MAX, |window| window.saturating_add(self.chunk).saturating_add(sinks))
    }
}

/// Keys, `[capacity, kv_heads, key_dim]`, and values, `[capacity, kv_heads, value_dim]`; these may have no width. The first positions, sinks, keep their places; the others share a ring after them: the
/// place of position `p` is `sinks + (p - sinks) % (capacity - sinks)`.
pub(super) struct Cache<A: Gpu> {
    pub halves: [A::Buffer; 2],
    pub capacity: usize,
    form: Form,
    /// The first position that was ever written.
    first: usize,
    holders: Mutex<Holders>,
}

/// The states that share a cache.
#[derive(Default)]
struct Holders {
    /// One past the highest position that was ever written.
    highest: usize,
    /// Positions that each state holds, by its number.
    positions: HashMap<u64, usize>,
}

impl<A: Gpu> Cache<A> {
    fn new(device: &A, form: Form, capacity: usize, first: usize) -> Result<Self, Error> {
        let half = |row: u64| {
            let bytes = row.saturating_mul(capacity as u64).max(16);
            let bytes = bytes.checked_next_multiple_of(16).unwrap_or(u64::MAX);
            let limit = device.target().max_binding;
            if bytes > limit {
                let what = format!("a buffer for {WHAT}");
                return Err(Error::DeviceLimit { what, needed: bytes, limit });
            }
            device.allocate(WHAT, bytes, Usage::Storage)
        };
        let halves = [half(form.rows[0])?, half(form.rows[1])?];
        Ok(Self { halves, capacity, form, first, holders: Mutex::default() })
    }

    /// A cache for the positions `first .. end`, which are written next.
    ///
    /// # Errors
    /// When it would be larger than the device allows, or there is no memory.
    pub(super) fn with_room(
        device: &A,
        form: Form,
        first: usize,
        end: usize,
    ) -> Result<Self, Error> {
        let capacity = grown(device.target(), form, 0, end.min(form.most()));
        Self::new(device, form, capacity, first)
    }

    /// Notes that a state holds the positions before `position`.
    pub(super) fn hold(&self, state: u64, position: usize) {
        let mut holders = lock(&self.holders);
        holders.highest = holders.highest.max(position);
        holders.positions.insert(state, position);
    }

    /// Notes that a state no longer holds any.
    pub(super) fn release(&self, state: u64) {
        lock(&self.holders).positions.remove(&state);
    }

    /// Makes room for positions `position .. position + len` in the `cache` of a state. Returns whether the state has another cache now; the one
    /// before is added to `left`, to be released when the copy in `commands` was submitted.
    ///
    /// # Errors
    /// When it would be larger than the device allows, or there is no memory.
    pub(super) fn reserve(
        cache: &mut Option<Arc<Self>>,
        device: &A,
        form: Form,
        state: u64,
        [position, len]: [usize; 2],
        commands: &mut Option<A::Commands>,
        left: &mut Vec<Arc<Self>>,
    ) -> Result<bool, Error> {
        let end = position.saturating_add(len);
        let needed = end.min(form.most());
        let new = match cache {
            Some(old) if needed <= old.capacity && old.claim(state, position, end) => {
                return Ok(false);
            }
            None => Self::with_room(device, form, 0, needed)?,
            Some(old) => {
                let capacity = match needed > old.capacity {
                    true => grown(device.target(), form, old.capacity, needed),
                    false => old.capacity,
                };
                let new = Self::new(device, form, capacity, old.first)?;
                // Up to its capacity, positions are their places.
                let halves = old.halves.iter().zip(&new.halves).zip(form.rows);
                for ((from, to), row) in halves {
                    let held = row * position.min(old.capacity) as u64;
                    if held > 0 {
                        let commands = commands.get_or_insert_with(|| device.commands());
                        commands.copy(from, 0, to, 0, held);
                    }
                }
                let highest = lock(&old.holders).highest;
                lock(&new.holders).highest = highest;
                new
            }
        };
        new.hold(state, end);
        left.extend(cache.replace(Arc::new(new)));
        Ok(true)
    }

    /// Whether a state can write positions `position .. end` without another state noticing; then it holds them.
    fn claim(&self, state: u64, position: usize, end: usize) -> bool {
        let mut holders = lock(&self.holders);
        let highest = holders.highest.max(end);
        let floor = self.floor_of(highest);
        let mut others = holders.positions.iter().filter(|(other, _)| **other != state);
        let free = others.all(|(_, &held)| held <= position && held >= floor);
        if free {
            holders.highest = highest;
            holders.positions.insert(state, end);
        }
        free
    }

    /// The first position whose token still finds all keys that it attends to.
    pub(super) fn floor(&self) -> usize {
        self.floor_of(lock(&self.holders).highest)
    }

    fn floor_of(&self, highest: usize) -> usize {
        let Some(window) = self.form.span.window else { return 0 };
        let lost = match highest > self.capacity {
            true => highest - (self.capacity - self.form.span.sinks.min(self.capacity)),
            false => 0,
        };
        let first = self.first.max(lost);
        if first == 0 { 0 } else { first + window - 1 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.halves.iter().map(A::size).sum::<u64>() as usize
    }

    /// The place of a position.
    fn place(&self, position: usize) -> usize {
        let sinks = self.form.span.sinks.min(self.capacity);
        match (position.checked_sub(sinks), self.capacity - sinks) {
            (Some(after), ring) if ring > 0 => sinks + after % ring,
            _ => position,
        }
    }

    /// Where positions `first .. end`, which are all held, lie: ranges of positions in order, each with the place at which it begins.
    pub(super) fn pieces(&self, first: usize, end: usize) -> Vec<(std::ops::Range<usize>, usize)> {
        let mut pieces = Vec::new();
        let mut start = first;
        while start < end && self.capacity > 0 {
            let place = self.place(start);
            let stop = end.min(start + self.capacity - place);
            pieces.push((start..stop, place));
            start = stop;
        }
        pieces
    }
}

/// A capacity for `needed` positions: at least twice the old one, so that copies cost constant time per position, but no more than a kernel can
/// bind.
fn grown(target: &Target, form: Form, old: usize, needed: usize) -> usize {
    let bound = usize::try_from(target.max_binding / form.rows[0].max(form.rows[1]).max(1))
        .unwrap_or(usize::MAX);
    let new = needed.max(old.saturating_mul(2)).max(FIRST_CAPACITY).min(form.most());
    new.min(bound.max(needed))
}
