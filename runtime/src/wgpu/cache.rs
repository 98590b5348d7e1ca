//! Keys and values of an attention layer in the device's memory.
//!
//! A snapshot shares the buffers. Positions are written once: who holds the last of them writes the next behind it, where the
//! others don't look; anybody else goes on with a copy. In a window positions take the places of those that have left it,
//! which the others may still need: that is looked after here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::Device;
use super::tensors::USAGE;
use crate::Error;

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
    pub window: Option<usize>,
    /// Most tokens of a step.
    pub chunk: usize,
}

impl Form {
    /// The first position that a token at `position` sees.
    pub(super) fn oldest(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// The most positions that are ever held: a step's first query must still see its window when the last key has been written.
    fn most(self) -> usize {
        self.window.map_or(usize::MAX, |window| window.saturating_add(self.chunk))
    }
}

/// Keys and values, `[capacity, kv_heads, head_dim]` each; a position's place is its remainder by the capacity.
pub(super) struct Cache {
    pub halves: [wgpu::Buffer; 2],
    pub capacity: usize,
    form: Form,
    /// The first position that was ever there.
    first: usize,
    written: Mutex<Written>,
}

/// What was written to a cache by all that share it.
#[derive(Clone, Copy)]
struct Written {
    /// One past the last position.
    end: usize,
    /// One past the highest position that ever was there.
    highest: usize,
    /// The lowest position of a snapshot since the cache was last nobody else's.
    lowest: usize,
}

impl Cache {
    fn new(device: &Device, form: Form, capacity: usize, first: usize) -> Result<Self, Error> {
        let bytes = form.row.saturating_mul(capacity as u64);
        let half = || device.buffer(WHAT, bytes, USAGE);
        let written = Mutex::new(Written { end: first, highest: first, lowest: usize::MAX });
        Ok(Self { halves: [half()?, half()?], capacity, form, first, written })
    }

    /// An empty one for the positions `first ..`, with room up to `end`.
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
        let cache = Self::new(device, form, capacity, first)?;
        *cache.lock() = Written { end, highest: end, lowest: usize::MAX };
        Ok(cache)
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for positions `position .. position + len` in `cache`, in a way that disturbs nobody. True where it is another
    /// one now.
    ///
    /// # Errors
    /// When it would be larger than the device allows, or there is no memory.
    pub(super) fn reserve(
        cache: &mut Option<Arc<Self>>,
        device: &Device,
        form: Form,
        position: usize,
        len: usize,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<bool, Error> {
        let needed = position.saturating_add(len).min(form.most());
        let Some(old) = cache else {
            *cache = Some(Arc::new(Self::with_room(device, form, 0, needed)?));
            let written =
                Written { end: position + len, highest: position + len, lowest: usize::MAX };
            cache.iter().for_each(|cache| *cache.lock() = written);
            return Ok(true);
        };
        if needed <= old.capacity && old.claim(position, len, Arc::strong_count(old) == 1) {
            return Ok(false);
        }
        let capacity = if needed > old.capacity {
            grown(device, form, old.capacity, needed)
        } else {
            old.capacity
        };
        let new = Self::new(device, form, capacity, old.first)?;
        // Before it goes round, all of it is held, and room is made before that.
        let held = position.min(old.capacity);
        if held > 0 {
            for (from, to) in old.halves.iter().zip(&new.halves) {
                encoder.copy_buffer_to_buffer(from, 0, to, 0, Some(form.row * held as u64));
            }
        }
        let highest = old.lock().highest.max(position + len);
        *new.lock() = Written { end: position + len, highest, lowest: usize::MAX };
        *cache = Some(Arc::new(new));
        Ok(true)
    }

    /// Whether positions `position .. position + len` can be written here; then they are taken as written.
    fn claim(&self, position: usize, len: usize, alone: bool) -> bool {
        let mut written = self.lock();
        let end = position + len;
        let highest = written.highest.max(end);
        if alone {
            written.lowest = usize::MAX;
        } else {
            let intact = written.lowest >= self.floor_of(highest);
            if written.end != position || !intact {
                return false;
            }
        }
        (written.end, written.highest) = (end, highest);
        true
    }

    /// To be called when a snapshot at `position` begins to share it.
    pub(super) fn share(&self, position: usize) {
        let mut written = self.lock();
        written.lowest = written.lowest.min(position);
    }

    /// The first position whose token finds all that it sees.
    pub(super) fn floor(&self) -> usize {
        self.floor_of(self.lock().highest)
    }

    fn floor_of(&self, highest: usize) -> usize {
        let Some(window) = self.form.window else { return 0 };
        let first = self.first.max(highest.saturating_sub(self.capacity));
        if first == 0 { 0 } else { first + window - 1 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.halves.iter().map(wgpu::Buffer::size).sum::<u64>() as usize
    }

    /// Where positions `first .. end` lie, which are all held: pieces of positions in order, each with the byte at which it begins.
    pub(super) fn pieces(&self, first: usize, end: usize) -> Vec<(std::ops::Range<usize>, u64)> {
        let mut pieces = Vec::new();
        let mut start = first;
        while start < end && self.capacity > 0 {
            let place = start % self.capacity;
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
