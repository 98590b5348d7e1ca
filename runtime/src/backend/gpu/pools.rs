//! The recurrent tensors of all sequences on the device.
//!
//! A pool holds the tensors of several sequences, slot after slot, so that one launch steps all of them. A new sequence and a copy have a pool of one slot.
//! Sequences that are stepped together move into one pool ([`Pools::gather`]). When too many of its slots are free, the rest move to a smaller one.

#![deny(clippy::wildcard_enum_match_arm)]

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::api::{Commands, Gpu, Region, Usage};
use super::program::Program;
use super::target::lock;
use super::tensors::{Place, WHAT};
use crate::Error;
use crate::plan::op::StateId;

/// Buffers with slots for the tensors of sequences.
pub(super) struct Pool<A: Gpu> {
    /// As the program's layout says.
    buffers: Vec<A::Buffer>,
    slots: usize,
    /// By launch: the bindings of those that work on tensors, once there was a step.
    bindings: OnceLock<Vec<Option<A::Bindings>>>,
}

impl<A: Gpu> Pool<A> {
    /// Zeros.
    ///
    /// # Errors
    /// When there is no memory.
    fn new(program: &Program<A>, slots: usize) -> Result<Arc<Self>, Error> {
        let buffers =
            program.layout.buffers.iter().map(|own| {
                program.device.allocate(WHAT, own.stride * slots as u64, Usage::Storage)
            });
        let buffers = buffers.collect::<Result<_, Error>>()?;
        Ok(Arc::new(Self { buffers, slots, bindings: OnceLock::new() }))
    }

    /// By launch: the bindings of those that work on tensors.
    ///
    /// # Errors
    /// When the device refuses.
    pub(super) fn bindings(&self, program: &Program<A>) -> Result<&[Option<A::Bindings>], Error> {
        if let Some(bindings) = self.bindings.get() {
            return Ok(bindings);
        }
        let layout = &program.layout;
        // A tensor with all that is double-buffered, from the first slot to the last.
        let region = |id: StateId, _| {
            let place = layout.place(id)?;
            let before = layout.buffers[place.buffer].stride * (self.slots as u64 - 1);
            let (buffer, bytes) = (self.buffers[place.buffer].clone(), before + place.size());
            Some(Region { buffer, offset: place.offset, bytes: Some(bytes) })
        };
        let launches = program.recording.launches.iter().enumerate();
        let bound = launches.map(|(index, launch)| {
            let own = launch.states().any(|id| layout.place(id).is_some());
            own.then(|| program.bind(index, &region)).transpose()
        });
        let bound = bound.collect::<Result<_, Error>>()?;
        Ok(self.bindings.get_or_init(|| bound))
    }
}

/// Where the tensors of a sequence lie.
pub(super) struct Slot<A: Gpu> {
    pub pool: Arc<Pool<A>>,
    pub number: usize,
}

impl<A: Gpu> Slot<A> {
    fn new(pool: &Arc<Pool<A>>, number: usize) -> Self {
        Self { pool: pool.clone(), number }
    }
}

impl<A: Gpu> Clone for Slot<A> {
    fn clone(&self) -> Self {
        Self::new(&self.pool, self.number)
    }
}

/// The tensors of all sequences of a program. Nothing moves while this is locked: from reading where tensors lie to submitting what uses them.
pub(super) struct Pools<A: Gpu> {
    /// By the number of the [`Tensors`].
    slots: HashMap<u64, Slot<A>>,
    /// A pool of one slot for the next snapshot.
    spare: Option<Arc<Pool<A>>>,
}

impl<A: Gpu> Default for Pools<A> {
    fn default() -> Self {
        Self { slots: HashMap::new(), spare: None }
    }
}

impl<A: Gpu> Pools<A> {
    /// Where the tensors of this number lie.
    ///
    /// # Errors
    /// When there are none.
    pub(super) fn slot(&self, program: &Program<A>, tensors: u64) -> Result<&Slot<A>, Error> {
        let fault = || program.device.target().fault("a session has no tensors");
        self.slots.get(&tensors).ok_or_else(fault)
    }

    /// A slot by itself, and whether it was used before.
    fn single(&mut self, program: &Program<A>) -> Result<(Slot<A>, bool), Error> {
        let spare = self.spare.take();
        let used = spare.is_some();
        let pool = spare.map_or_else(|| Pool::new(program, 1), Ok)?;
        Ok((Slot { pool, number: 0 }, used))
    }

    /// The tensors in a pool, in the order of their slots.
    fn within(&self, pool: &Arc<Pool<A>>) -> Vec<(usize, u64)> {
        let own = self.slots.iter().filter(|(_, slot)| Arc::ptr_eq(&slot.pool, pool));
        let mut own: Vec<_> = own.map(|(tensors, slot)| (slot.number, *tensors)).collect();
        own.sort_unstable();
        own
    }

    /// Moves tensors to slots of other pools.
    fn relocate(
        &mut self,
        program: &Program<A>,
        tensors: &[u64],
        to: impl IntoIterator<Item = Slot<A>>,
    ) {
        let mut commands = program.device.commands();
        for (tensors, to) in tensors.iter().zip(to) {
            if let Some(from) = self.slots.get_mut(tensors) {
                copy(program, from, &to, &mut commands);
                *from = to;
            }
        }
        commands.submit();
    }

    /// Brings tensors into as few pools as the device allows. Where there is no memory for that, they stay where they are.
    pub(super) fn gather(&mut self, program: &Program<A>, tensors: &[u64]) {
        let most = program.layout.most_slots;
        let mut groups: Vec<(Arc<Pool<A>>, Vec<u64>)> = Vec::new();
        for &tensors in tensors {
            let Some(Slot { pool, .. }) = self.slots.get(&tensors) else { continue };
            match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, pool)) {
                Some((_, own)) => own.push(tensors),
                None => groups.push((pool.clone(), vec![tensors])),
            }
        }
        let needed = tensors.len().div_ceil(most);
        if groups.len() <= needed || program.layout.buffers.is_empty() {
            return;
        }
        groups.sort_by_key(|(_, own)| Reverse(own.len()));
        let (kept, left) = groups.split_at(needed);
        let mut free = Vec::new();
        for (pool, _) in kept {
            let used = self.within(pool);
            let unused = (0..pool.slots).filter(|n| used.iter().all(|(own, _)| own != n));
            free.extend(unused.map(|number| Slot::new(pool, number)));
        }
        let strays: Vec<u64> = left.iter().flat_map(|(_, own)| own).copied().collect();
        if strays.len() <= free.len() {
            self.relocate(program, &strays, free);
            left.iter().for_each(|(pool, _)| self.trim(program, pool));
            return;
        }
        // All that the pools hold moves, so that sequences which take turns in steps end in one pool, too.
        let mut all: Vec<u64> = groups.iter().flat_map(|(_, own)| own).copied().collect();
        let stepped = all.len();
        for (pool, _) in &groups {
            let others = self.within(pool).into_iter().map(|(_, tensors)| tensors);
            let others = others.filter(|own| !all[..stepped].contains(own));
            all.extend(others.collect::<Vec<_>>());
        }
        for own in all.chunks(most) {
            // One slot of sixteen is free for a sequence that joins.
            let slots = most.min(own.len() + own.len() / 16);
            let Ok(pool) = Pool::new(program, slots) else { break };
            self.relocate(program, own, (0..slots).map(|number| Slot::new(&pool, number)));
        }
        groups.iter().for_each(|(pool, _)| self.trim(program, pool));
    }

    /// Moves what a pool holds to a smaller one, if more than one slot is free, and more than a quarter of what is used.
    fn trim(&mut self, program: &Program<A>, pool: &Arc<Pool<A>>) {
        let own: Vec<u64> = self.within(pool).into_iter().map(|(_, tensors)| tensors).collect();
        if own.is_empty() || pool.slots - own.len() <= (own.len() / 4).max(1) {
            return;
        }
        if let Ok(pool) = Pool::new(program, own.len()) {
            self.relocate(program, &own, (0..own.len()).map(|number| Slot::new(&pool, number)));
        }
    }

    /// Bytes of all pools, with their free slots.
    #[cfg(feature = "testing")]
    pub(super) fn bytes(&self, program: &Program<A>) -> usize {
        let mut pools: Vec<_> = self.slots.values().map(|slot| &slot.pool).collect();
        pools.extend(&self.spare);
        pools.sort_by_key(|pool| Arc::as_ptr(pool).addr());
        pools.dedup_by(|a, b| Arc::ptr_eq(a, b));
        pools.iter().map(|pool| pool.slots * program.layout.bytes()).sum()
    }
}

/// Copies tensors to a slot of another pool: an API may refuse to copy within a buffer.
fn copy<A: Gpu>(program: &Program<A>, from: &Slot<A>, to: &Slot<A>, commands: &mut A::Commands) {
    let buffers = from.pool.buffers.iter().zip(&to.pool.buffers);
    for (layout, (own, other)) in program.layout.buffers.iter().zip(buffers) {
        let at = |slot: &Slot<A>| layout.stride * slot.number as u64;
        commands.copy(own, at(from), other, at(to), layout.stride);
    }
}

/// The tensors of a sequence and of all its snapshots since its last step. The first of them to be stepped leaves a copy to the others and keeps
/// the slot.
pub(super) struct Tensors<A: Gpu> {
    program: Arc<Program<A>>,
    /// Names them in [`Pools`].
    pub number: u64,
}

impl<A: Gpu> Tensors<A> {
    /// Zeros.
    ///
    /// # Errors
    /// When there is no memory.
    pub(super) fn new(program: &Arc<Program<A>>) -> Result<Self, Error> {
        let mut pools = lock(&program.pools);
        let (slot, used) = pools.single(program)?;
        if used {
            let mut commands = program.device.commands();
            slot.pool.buffers.iter().for_each(|buffer| commands.clear(buffer));
            commands.submit();
        }
        let number = next_number();
        pools.slots.insert(number, slot);
        Ok(Self { program: program.clone(), number })
    }

    /// Makes `tensors` unshared, so that a step can write to them.
    ///
    /// # Errors
    /// When there is no memory for a copy.
    pub(super) fn unshare(tensors: &mut Arc<Self>) -> Result<(), Error> {
        let program = tensors.program.clone();
        if Arc::strong_count(tensors) == 1 || program.layout.buffers.is_empty() {
            return Ok(());
        }
        let number = next_number();
        let mut pools = lock(&program.pools);
        let (to, _) = pools.single(&program)?;
        let Some(shared) = pools.slots.get_mut(&tensors.number) else { return Ok(()) };
        let mut commands = program.device.commands();
        copy(&program, shared, &to, &mut commands);
        commands.submit();
        let own = std::mem::replace(shared, to);
        pools.slots.insert(number, own);
        // Dropping the others' locks the pools again.
        drop(pools);
        *tensors = Arc::new(Self { program, number });
        Ok(())
    }

    /// Calls `use_it` with the buffer that holds a tensor, and the byte at which the tensor begins. Nothing moves before it returns, so what it
    /// submits finds the tensor there.
    pub(super) fn with<T>(
        &self,
        place: Place,
        use_it: impl FnOnce(&A::Buffer, u64) -> T,
    ) -> Option<T> {
        let pools = lock(&self.program.pools);
        let slot = pools.slots.get(&self.number)?;
        let stride = self.program.layout.buffers.get(place.buffer)?.stride;
        let at = stride * slot.number as u64 + place.offset;
        Some(use_it(slot.pool.buffers.get(place.buffer)?, at))
    }

    pub(super) fn bytes(&self) -> usize {
        self.program.layout.bytes()
    }
}

impl<A: Gpu> Drop for Tensors<A> {
    fn drop(&mut self) {
        let mut pools = lock(&self.program.pools);
        let Some(Slot { pool, .. }) = pools.slots.remove(&self.number) else { return };
        if pool.slots > 1 {
            pools.trim(&self.program, &pool);
        } else if pools.spare.is_none() {
            pools.spare = Some(pool);
        }
    }
}

/// A number that no other tensors have.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
