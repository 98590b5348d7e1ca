//! The recurrent tensors of a sequence on the device: all of them in one buffer, or in as few as the device allows, so that a copy is one
//! command.

#![deny(clippy::wildcard_enum_match_arm)]

use std::sync::{Arc, Mutex};

use super::api::{Commands, Gpu, Region, Usage};
use super::program::Program;
use super::target::{Target, lock};
use crate::Error;
use crate::plan::op::{DoubleBuffer, StateId};
use crate::plan::{Plan, StateKind};

/// Alignment of the offsets of bindings on every device.
const ALIGNMENT: u64 = 256;
/// Most sets of buffers that are kept for the next snapshot.
const MOST_SPARE: usize = 1;
/// Label in allocation errors.
const WHAT: &str = "a session's state";

/// Where the tensors of every session lie.
pub(super) struct StateLayout {
    /// By state; `None` for caches.
    places: Vec<Option<Place>>,
    /// Bytes of the buffers.
    buffers: Vec<u64>,
}

/// Where a tensor lies.
#[derive(Clone, Copy)]
pub(super) struct Place {
    buffer: usize,
    pub offset: u64,
    /// Of one copy.
    pub bytes: u64,
    /// The second halves of what is double-buffered follow the tensor. Sizes of ends are in bytes.
    double_buffer: DoubleBuffer,
}

impl Place {
    /// A place for a tensor of so many elements.
    fn new(bytes: u64, elements: usize, double_buffer: DoubleBuffer) -> Self {
        let double_buffer = match double_buffer {
            // In bytes from here on.
            DoubleBuffer::Ends { parts, elements: own } => {
                DoubleBuffer::Ends { parts, elements: own * (bytes as usize / elements.max(1)) }
            }
            all @ (DoubleBuffer::Nothing | DoubleBuffer::All) => all,
        };
        Self { buffer: 0, offset: 0, bytes, double_buffer }
    }

    /// Bytes in all, padded so that they can be copied and bound.
    pub(super) fn size(self) -> u64 {
        let second = match self.double_buffer {
            DoubleBuffer::Nothing => 0,
            DoubleBuffer::All => self.bytes,
            DoubleBuffer::Ends { parts, elements } => (parts * elements) as u64,
        };
        (self.bytes + second).next_multiple_of(4).max(16)
    }

    /// The tensor as the last step left it, from all the bytes of this place; `None` where there are too few.
    pub(super) fn current(self, all: &[u8], parity: u32) -> Option<Vec<u8>> {
        let bytes = self.bytes as usize;
        let (first, second) = all.split_at_checked(bytes)?;
        if parity == 0 {
            return Some(first.to_vec());
        }
        match self.double_buffer {
            DoubleBuffer::Nothing => Some(first.to_vec()),
            DoubleBuffer::All => second.get(..bytes).map(<[u8]>::to_vec),
            DoubleBuffer::Ends { parts, elements } => {
                let mut whole = first.to_vec();
                let ends = second.get(..parts * elements)?.chunks_exact(elements.max(1));
                for (part, end) in whole.chunks_exact_mut(bytes / parts.max(1)).zip(ends) {
                    let rest = part.len().checked_sub(elements)?;
                    part[rest..].copy_from_slice(end);
                }
                Some(whole)
            }
        }
    }

    /// A tensor with both halves of what is double-buffered, so that either can be read next.
    pub(super) fn with_copies(self, mut tensor: Vec<u8>) -> Vec<u8> {
        match self.double_buffer {
            DoubleBuffer::Nothing => {}
            DoubleBuffer::All => tensor.extend_from_within(..),
            DoubleBuffer::Ends { parts, elements } => {
                let part = tensor.len() / parts.max(1);
                for end in (1..=parts).map(|index| index * part) {
                    tensor.extend_from_within(end.saturating_sub(elements)..end);
                }
            }
        }
        tensor.resize(tensor.len().next_multiple_of(4), 0);
        tensor
    }
}

impl StateLayout {
    /// Places for the states of `plan`; `double_buffers` says what is double-buffered of each.
    ///
    /// # Errors
    /// When a tensor is larger than a kernel can bind.
    pub(super) fn new(
        target: &Target,
        plan: &Plan,
        double_buffers: &[DoubleBuffer],
    ) -> Result<Self, Error> {
        let most = target.max_buffer;
        let (mut places, mut buffers) = (Vec::new(), Vec::<u64>::new());
        for (state, &double_buffer) in plan.states.iter().zip(double_buffers) {
            let StateKind::Tensor { .. } = &state.kind else {
                places.push(None);
                continue;
            };
            let place = Place::new(state.bytes(0) as u64, state.elements(0), double_buffer);
            let needed = place.size();
            if needed > target.max_binding {
                let (what, limit) = (format!("a buffer for {WHAT}"), target.max_binding);
                return Err(Error::DeviceLimit { what, needed, limit });
            }
            let taken = buffers.last().copied().filter(|taken| taken + needed <= most);
            let offset = taken.unwrap_or_else(|| {
                buffers.push(0);
                0
            });
            let buffer = buffers.len() - 1;
            buffers[buffer] = (offset + needed).next_multiple_of(ALIGNMENT);
            places.push(Some(Place { buffer, offset, ..place }));
        }
        Ok(Self { places, buffers })
    }

    /// Where a tensor lies; `None` for a cache.
    pub(super) fn place(&self, id: StateId) -> Option<Place> {
        self.places.get(id.0).copied().flatten()
    }

    fn bytes(&self) -> usize {
        self.buffers.iter().sum::<u64>() as usize
    }
}

/// Buffers of sessions that were dropped.
pub(super) struct SpareTensors<A: Gpu>(Mutex<Vec<Vec<A::Buffer>>>);

impl<A: Gpu> Default for SpareTensors<A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// The tensors of a sequence and of all its snapshots since its last step. The first of them to be stepped leaves a copy to the others and keeps
/// the buffers, since its launches are bound to them.
pub(super) struct Tensors<A: Gpu> {
    program: Arc<Program<A>>,
    buffers: Mutex<Vec<A::Buffer>>,
}

impl<A: Gpu> Tensors<A> {
    /// Zeros.
    ///
    /// # Errors
    /// When there is no memory.
    pub(super) fn new(program: &Arc<Program<A>>) -> Result<Self, Error> {
        let (buffers, used) = take(program)?;
        if used {
            let mut commands = program.device.commands();
            buffers.iter().for_each(|buffer| commands.clear(buffer));
            commands.submit();
        }
        Ok(Self { program: program.clone(), buffers: Mutex::new(buffers) })
    }

    /// Makes `tensors` unshared, so that a step can write to them.
    ///
    /// # Errors
    /// When there is no memory for a copy.
    pub(super) fn unshare(tensors: &mut Arc<Self>) -> Result<(), Error> {
        if Arc::strong_count(tensors) == 1 || tensors.program.layout.buffers.is_empty() {
            return Ok(());
        }
        let program = tensors.program.clone();
        let (copies, _) = take(&program)?;
        let mut commands = program.device.commands();
        // The others may be stepped on other threads.
        let mut shared = lock(&tensors.buffers);
        for (from, to) in shared.iter().zip(&copies) {
            commands.copy(from, 0, to, 0, A::size(from));
        }
        commands.submit();
        let own = Mutex::new(std::mem::replace(&mut *shared, copies));
        drop(shared);
        *tensors = Arc::new(Self { program, buffers: own });
        Ok(())
    }

    /// The buffers. Other states may take them when they are stepped, unless the tensors are unshared.
    pub(super) fn buffers(&self) -> Vec<A::Buffer> {
        lock(&self.buffers).clone()
    }

    /// A tensor with all that is double-buffered.
    pub(super) fn region(&self, place: Place) -> Option<Region<A::Buffer>> {
        let buffer = lock(&self.buffers).get(place.buffer)?.clone();
        Some(Region { buffer, offset: place.offset, bytes: Some(place.size()) })
    }

    /// Calls `use_it` with the buffer that holds a tensor. No other state takes the buffer before it returns, so what it submits finds the
    /// tensor there.
    pub(super) fn with<T>(&self, place: Place, use_it: impl FnOnce(&A::Buffer) -> T) -> Option<T> {
        Some(use_it(lock(&self.buffers).get(place.buffer)?))
    }

    pub(super) fn bytes(&self) -> usize {
        self.program.layout.bytes()
    }
}

impl<A: Gpu> Drop for Tensors<A> {
    fn drop(&mut self) {
        let buffers = std::mem::take(&mut *lock(&self.buffers));
        let mut spare = lock(&self.program.spare_tensors.0);
        if spare.len() < MOST_SPARE && !buffers.is_empty() {
            spare.push(buffers);
        }
    }
}

/// Buffers for the tensors of a session, and whether they were used before.
fn take<A: Gpu>(program: &Program<A>) -> Result<(Vec<A::Buffer>, bool), Error> {
    if let Some(buffers) = lock(&program.spare_tensors.0).pop() {
        return Ok((buffers, true));
    }
    let new = |&bytes: &u64| program.device.allocate(WHAT, bytes, Usage::Storage);
    Ok((program.layout.buffers.iter().map(new).collect::<Result<_, Error>>()?, false))
}
