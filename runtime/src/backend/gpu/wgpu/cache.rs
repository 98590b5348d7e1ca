//! Keys and values of an attention layer in the device's memory.
//!
//! States that come from one another share the buffers. Who holds more positions than any other writes the next behind them, where
//! the others don't look; anybody else goes on with a copy. In a window positions take the places of those that have left it,
//! which the others may still need: so it is known who holds how many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::Device;
use super::tensors::USAGE;
use crate::Error;
use crate::plan::op::AttentionSpan;

/// Positions that a cache has room for at first.
const FIRST_CAPACITY: usize = 64;
/// What the memory is for.
const WHAT: &str = "a key/value cache";

/// The form of a layer's cache.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// Bytes of the keys, or the values, of a position.
    pub row: u64,
    /// Positions that a token sees.
    pub span: AttentionSpan,
    /// Most tokens of a step.
    pub chunk: usize,
}

impl Form {
    /// The most positions that are ever held: a step's first query must still see its window when the last key has been written.
    fn most(self) -> usize {
        let AttentionSpan { window, sinks } = self.span;
        window.map_or(usize::MAX, |window| window.saturating_add(self.chunk).saturating_add(sinks))
    }
}

/// Keys and values, `[capacity, kv_heads, head_dim]` each. Sinks stay where they are, and the others go round behind them: the place of
/// position `p` is `sinks + (p - sinks) % (capacity - sinks)`.
pub(super) struct Cache {
    pub halves: [wgpu::Buffer; 2],
    pub capacity: usize,
    form: Form,
    /// The first position that was ever there.
    first: usize,
    holders: Mutex<Holders>,
}

/// Who shares a cache.
#[derive(Default)]
struct Holders {
    /// One past the highest position that was ever written.
    highest: usize,
    /// By the number of a state: the positions that it holds.
    positions: HashMap<u64, usize>,
}

impl Cache {
    fn new(device: &Device, form: Form, capacity: usize, first: usize) -> Result<Self, Error> {
        let bytes = form.row.saturating_mul(capacity as u64);
        let half = || device.buffer(WHAT, bytes, USAGE);
        let halves = [half()?, half()?];
        Ok(Self { halves, capacity, form, first, holders: Mutex::default() })
    }

    /// One for the positions `first .. end`, which are written next.
    ///
    /// # Errors
    /// When it would be larger than the device allows, or there is no memory.
    pub(super) fn with_room(
        device: &Device,
        form: Form,
        first: usize,
        end: usize,
    ) -> Result<Self, Error> {
        let capacity = grown(device, form, 0, end.min(form.most()));
        Self::new(device, form, capacity, first)
    }

    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a state holds the positions before `position`.
    pub(super) fn hold(&self, state: u64, position: usize) {
        let mut holders = self.lock();
        holders.highest = holders.highest.max(position);
        holders.positions.insert(state, position);
    }

    /// Says that a state holds none any more.
    pub(super) fn release(&self, state: u64) {
        self.lock().positions.remove(&state);
    }

    /// Makes room for positions `position .. position + len` in the `cache` of a state, in a way that disturbs nobody. True where
    /// it is another one now: the one before goes to `left`, to be released when the copy from it was submitted.
    ///
    /// # Errors
    /// When it would be larger than the device allows, or there is no memory.
    pub(super) fn reserve(
        cache: &mut Option<Arc<Self>>,
        device: &Device,
        form: Form,
        state: u64,
        [position, len]: [usize; 2],
        encoder: &mut wgpu::CommandEncoder,
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
                    true => grown(device, form, old.capacity, needed),
                    false => old.capacity,
                };
                let new = Self::new(device, form, capacity, old.first)?;
                // Before it goes round, all of it is held, and room is made before that.
                let held = form.row * position.min(old.capacity) as u64;
                for (from, to) in old.halves.iter().zip(&new.halves).filter(|_| held > 0) {
                    encoder.copy_buffer_to_buffer(from, 0, to, 0, Some(held));
                }
                let highest = old.lock().highest;
                new.lock().highest = highest;
                new
            }
        };
        new.hold(state, end);
        left.extend(cache.replace(Arc::new(new)));
        Ok(true)
    }

    /// Whether a state can write positions `position .. end` here, where no other looks; then it holds them.
    fn claim(&self, state: u64, position: usize, end: usize) -> bool {
        let mut holders = self.lock();
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

    /// The first position whose token finds all that it sees.
    pub(super) fn floor(&self) -> usize {
        self.floor_of(self.lock().highest)
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
        self.halves.iter().map(wgpu::Buffer::size).sum::<u64>() as usize
    }

    /// The place of a position.
    fn place(&self, position: usize) -> usize {
        let sinks = self.form.span.sinks.min(self.capacity);
        match (position.checked_sub(sinks), self.capacity - sinks) {
            (Some(behind), round) if round > 0 => sinks + behind % round,
            _ => position,
        }
    }

    /// Where positions `first .. end` lie, which are all held: pieces of positions in order, each with the byte at which it begins.
    pub(super) fn pieces(&self, first: usize, end: usize) -> Vec<(std::ops::Range<usize>, u64)> {
        let mut pieces = Vec::new();
        let mut start = first;
        while start < end && self.capacity > 0 {
            let place = self.place(start);
            let stop = end.min(start + self.capacity - place);
            pieces.push((start..stop, self.form.row * place as u64));
            start = stop;
        }
        pieces
    }
}

/// A capacity for `needed` positions: at least twice the old one, so that copies cost a constant for each position; never more than
/// can be bound.
fn grown(device: &Device, form: Form, old: usize, needed: usize) -> usize {
    let bound = usize::try_from(device.max_binding / form.row.max(1)).unwrap_or(usize::MAX);
    let new = needed.max(old.saturating_mul(2)).max(FIRST_CAPACITY).min(form.most());
    new.min(bound.max(needed))
}
