//! [`GpuState`]: the state of one sequence on the device.

#![deny(clippy::wildcard_enum_match_arm)]

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::api::{Commands, Gpu, Region};
use super::cache::{Cache, Form};
use super::pools::Tensors;
use super::program::Program;
use super::readback::Readback;
use super::recording::Step;
use crate::Error;
use crate::backend::cache_codes::{self, Bits};
use crate::backend::executable::{ExportFuture, PortableState, SessionState};
use crate::plan::op::{AttentionSpan, StateId};
use crate::plan::{StateFormat, StateKind};

/// Recurrent tensors and key/value caches. A snapshot shares all of it: tensors are copied when the next step begins, a cache only where two
/// states write to the same positions.
pub(super) struct GpuState<A: Gpu> {
    /// Identifies it to caches.
    number: u64,
    program: Arc<Program<A>>,
    tensors: Arc<Tensors<A>>,
    /// By state of the plan: `None` for tensors, and before the first token.
    caches: Vec<Option<Arc<Cache<A>>>>,
    /// By launch: the bindings of those that work on a cache. Empty before the first step.
    bindings: Vec<Option<A::Bindings>>,
    /// Tokens taken so far: the position of the next one.
    pub position: usize,
    /// Which half of what is double-buffered the last step wrote.
    pub parity: u32,
}

/// A number that no other state has.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl<A: Gpu> GpuState<A> {
    pub(super) fn new(program: Arc<Program<A>>) -> Result<Self, Error> {
        let tensors = Arc::new(Tensors::new(&program)?);
        let caches = vec![None; program.plan.states.len()];
        Ok(Self {
            number: next_number(),
            program,
            tensors,
            caches,
            bindings: Vec::new(),
            position: 0,
            parity: 0,
        })
    }

    /// Whether this is a state of `program`.
    pub(super) fn belongs_to(&self, program: &Arc<Program<A>>) -> bool {
        Arc::ptr_eq(&self.program, program)
    }

    /// Names its tensors in the program's pools. After [`Self::prepare`] no other state has the same.
    pub(super) fn tensors(&self) -> u64 {
        self.tensors.number
    }

    /// By launch: the bindings of those that work on a cache, after [`Self::prepare`].
    pub(super) fn bindings(&self) -> &[Option<A::Bindings>] {
        &self.bindings
    }

    /// What the kernels read of a run whose rows begin at `start`, with the tensors in slot `slot`.
    pub(super) fn step(&self, slot: usize, start: usize, tokens: usize) -> Step {
        let layout = &self.program.layout;
        Step {
            start: start as u32,
            tokens: tokens as u32,
            position: self.position as u32,
            parity: self.parity,
            slot: layout.units(slot, false),
            conv_slot: layout.units(slot, true),
        }
    }

    /// What all caches of a state have in common; `None` for a tensor.
    fn form(&self, index: usize) -> Option<Form> {
        match &self.program.plan.states.get(index)?.kind {
            StateKind::KeyValue { window, sinks, .. } => Some(Form {
                rows: self.shape(StateId(index))?.rows(self.format_of(StateId(index))),
                span: AttentionSpan { window: *window, sinks: *sinks },
                chunk: self.program.recording.chunk,
            }),
            StateKind::Tensor { .. } => None,
        }
    }

    /// Makes the state writable, with room for `len` more positions, and binds launches to its caches.
    ///
    /// # Errors
    /// When a cache would be larger than the device allows, or there is no memory.
    pub(super) fn prepare(&mut self, len: usize) -> Result<(), Error> {
        Tensors::unshare(&mut self.tensors)?;
        let program = self.program.clone();
        let device = &program.device;
        let mut commands = None;
        let (mut moved, mut left) = (Vec::new(), Vec::new());
        for index in 0..self.caches.len() {
            let Some(form) = self.form(index) else { continue };
            let cache = &mut self.caches[index];
            let span = [self.position, len];
            if Cache::reserve(cache, device, form, self.number, span, &mut commands, &mut left)? {
                moved.push(StateId(index));
            }
        }
        if let Some(commands) = commands {
            commands.submit();
        }
        left.iter().for_each(|cache| cache.release(self.number));
        let all = self.bindings.is_empty();
        if (all || !moved.is_empty())
            && let Err(error) = self.bind((!all).then_some(&moved))
        {
            self.bindings.clear();
            return Err(error);
        }
        Ok(())
    }

    /// Binds all launches that work on a cache, or those that work on one of `moved`.
    fn bind(&mut self, moved: Option<&Vec<StateId>>) -> Result<(), Error> {
        let program = self.program.clone();
        let launches = &program.recording.launches;
        self.bindings.resize_with(launches.len(), || None);
        for (index, bound) in self.bindings.iter_mut().enumerate() {
            let launch = &launches[index];
            let touched = |id: StateId| {
                let cached = program.layout.place(id).is_none();
                cached && moved.is_none_or(|moved| moved.contains(&id))
            };
            if !launch.states().any(touched) {
                continue;
            }
            let part = |id: StateId, part: usize| {
                let cache = self.caches.get(id.0)?.as_ref()?;
                cache.halves.get(part).cloned().map(Region::whole)
            };
            *bound = Some(program.bind(index, &part)?);
        }
        Ok(())
    }

    /// Copies bytes of buffers to where the host can read them.
    fn fetch(&self, ranges: &[(&A::Buffer, u64, u64)]) -> Result<Readback<A>, Error> {
        let device = &self.program.device;
        let total = ranges.iter().map(|(_, _, bytes)| bytes).sum();
        let staging = self.program.staging.take(device, total)?;
        let mut commands = device.commands();
        let mut at = 0;
        for (buffer, start, bytes) in ranges {
            commands.fetch(buffer, *start, &staging, at, *bytes);
            at += bytes;
        }
        Ok(Readback::new(commands.submit(), vec![(staging, total)]))
    }

    /// What was fetched, `bytes` of it.
    async fn read(&self, readback: Readback<A>, bytes: u64) -> Result<Vec<f32>, Error> {
        let mut values = Vec::new();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let what = "a copy of a session's state";
        values.try_reserve_exact(bytes / 4).map_err(|_| Error::OutOfMemory { what, bytes })?;
        let (device, spare) = (&*self.program.device, &self.program.staging);
        readback.read(device, spare, |read| values.extend_from_slice(read)).await?;
        Ok(values)
    }

    async fn exported(&self, id: StateId) -> Result<PortableState, Error> {
        self.program.device.check()?;
        let form = || Error::StateForm { id: id.0 };
        if let Some(place) = self.program.layout.place(id) {
            // All of it: one half need not be aligned for a copy.
            let size = place.size();
            let fetched = self.tensors.with(place, |buffer, at| self.fetch(&[(buffer, at, size)]));
            let readback = fetched.ok_or_else(form)??;
            let all = self.read(readback, size).await?;
            let own = place.current(bytemuck::cast_slice(&all), self.parity).ok_or_else(form)?;
            return Ok(PortableState::Tensor(match self.format_of(id) {
                StateFormat::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(&own).to_f32_vec(),
                StateFormat::F32 | StateFormat::Affine8 | StateFormat::Affine4 => {
                    bytemuck::pod_collect_to_vec(&own)
                }
            }));
        }
        let shape = self.shape(id).ok_or_else(form)?;
        let rows = shape.rows(self.format_of(id));
        let (sinks, first) = self.form(id.0).ok_or_else(form)?.span.held(self.position);
        let mut halves = [Vec::new(), Vec::new()];
        if let Some(Some(cache)) = self.caches.get(id.0) {
            let mut pieces = cache.pieces(0, sinks);
            pieces.extend(cache.pieces(first, self.position));
            let parts = halves.iter_mut().zip(&cache.halves).zip(shape.widths).zip(rows);
            for (((half, buffer), width), row) in parts {
                let ranges: Vec<_> = pieces
                    .iter()
                    .map(|(span, at)| (buffer, row * *at as u64, row * span.len() as u64))
                    .collect();
                let positions = sinks + self.position - first;
                if positions > 0 && width > 0 {
                    let readback = self.fetch(&ranges)?;
                    let mut rows = self.read(readback, row * positions as u64).await?;
                    if let Some(bits) = Bits::of(self.format_of(id)) {
                        rows = cache_codes::from_words(bits, bytemuck::cast_slice(&rows), width);
                    }
                    *half = transposed(&rows, positions, shape.kv_heads, width);
                }
            }
        }
        let [keys, values] = halves;
        Ok(PortableState::KeyValue { first, keys, values })
    }

    /// How a state is stored.
    fn format_of(&self, id: StateId) -> StateFormat {
        self.program.plan.states.get(id.0).map(|state| state.format).unwrap_or_default()
    }

    /// The shape of a cache; `None` for a tensor.
    fn shape(&self, id: StateId) -> Option<Shape> {
        match &self.program.plan.states.get(id.0)?.kind {
            StateKind::KeyValue { kv_heads, key_dim, value_dim, .. } => {
                Some(Shape { kv_heads: *kv_heads, widths: [*key_dim, *value_dim] })
            }
            StateKind::Tensor { .. } => None,
        }
    }
}

/// The shape of a cache.
#[derive(Clone, Copy)]
struct Shape {
    kv_heads: usize,
    /// Widths of a head's key and of its value.
    widths: [usize; 2],
}

impl Shape {
    /// Bytes of the keys, and of the values, of a position.
    fn rows(self, format: StateFormat) -> [u64; 2] {
        self.widths.map(|width| format.bytes(self.kv_heads, width) as u64)
    }
}

/// `[outer, inner, width]` as `[inner, outer, width]`.
fn transposed(values: &[f32], outer: usize, inner: usize, width: usize) -> Vec<f32> {
    let mut transposed = Vec::with_capacity(values.len());
    for i in 0..inner {
        for o in 0..outer {
            let at = (o * inner + i) * width;
            transposed.extend_from_slice(values.get(at..at + width).unwrap_or_default());
        }
    }
    transposed
}

impl<A: Gpu> SessionState for GpuState<A> {
    fn snapshot(&self) -> Result<Box<dyn SessionState>, Error> {
        self.program.device.check()?;
        let number = next_number();
        self.caches.iter().flatten().for_each(|cache| cache.hold(number, self.position));
        Ok(Box::new(Self {
            number,
            program: self.program.clone(),
            tensors: self.tensors.clone(),
            caches: self.caches.clone(),
            bindings: Vec::new(),
            position: self.position,
            parity: self.parity,
        }))
    }

    fn bytes(&self) -> usize {
        let caches: usize = self.caches.iter().flatten().map(|cache| cache.bytes()).sum();
        self.tensors.bytes() + caches
    }

    fn blocks(&self, visit: &mut dyn FnMut(usize, usize)) {
        visit(Arc::as_ptr(&self.tensors).addr(), self.tensors.bytes());
        for cache in self.caches.iter().flatten() {
            visit(Arc::as_ptr(cache).addr(), cache.bytes());
        }
    }

    fn attention_floor(&self) -> usize {
        self.caches.iter().flatten().map(|cache| cache.floor()).max().unwrap_or(0)
    }

    fn cut_attention(&mut self, position: usize) -> Result<(), Error> {
        if position < self.attention_floor() || position > self.position {
            return Err(Error::CutOutOfRange { position, held: self.position });
        }
        self.position = position;
        self.caches.iter().flatten().for_each(|cache| cache.hold(self.number, position));
        Ok(())
    }

    fn export(&self, id: StateId) -> ExportFuture<'_> {
        Box::pin(self.exported(id))
    }

    fn import(&mut self, position: usize, id: StateId, state: PortableState) -> Result<(), Error> {
        let form = || Error::StateForm { id: id.0 };
        let device = &self.program.device;
        match (self.program.layout.place(id), state) {
            (Some(place), PortableState::Tensor(values)) => {
                let most = f16::MAX.to_f32();
                let half = |&x: &f32| f16::from_f32(x.clamp(-most, most));
                let bytes: Vec<u8> = match self.format_of(id) {
                    StateFormat::F16 => values.iter().flat_map(|x| half(x).to_ne_bytes()).collect(),
                    StateFormat::F32 | StateFormat::Affine8 | StateFormat::Affine4 => {
                        bytemuck::pod_collect_to_vec(&values)
                    }
                };
                if bytes.len() as u64 != place.bytes {
                    return Err(form());
                }
                let bytes = place.with_copies(bytes);
                Tensors::unshare(&mut self.tensors)?;
                self.tensors
                    .with(place, |buffer, at| device.write(buffer, at, &bytes))
                    .ok_or_else(form)?;
            }
            (None, PortableState::KeyValue { first, keys, values }) => {
                let Shape { kv_heads, widths } = self.shape(id).ok_or_else(form)?;
                let shape = self.form(id.0).ok_or_else(form)?;
                let sinks = shape.span.sinks.min(first);
                let positions = position.checked_sub(first).ok_or_else(form)? + sinks;
                let rows = positions.checked_mul(kv_heads).ok_or_else(form)?;
                let whole = |len: usize, width: usize| rows.checked_mul(width) == Some(len);
                let whole = whole(keys.len(), widths[0]) && whole(values.len(), widths[1]);
                if !whole || first > shape.span.oldest(position) {
                    return Err(form());
                }
                let mut cache = None;
                if position > 0 {
                    let new = Cache::with_room(&**device, shape, first, position)?;
                    // There may be more positions than the ring holds.
                    let round = new.capacity.saturating_sub(shape.span.sinks).max(1);
                    let held = first.max(position.saturating_sub(round));
                    let halves = new.halves.iter().zip([&keys, &values]);
                    for ((buffer, half), (width, bytes)) in
                        halves.zip(widths.into_iter().zip(shape.rows))
                    {
                        let rows = transposed(half, kv_heads, positions, width);
                        // Sinks come before the others, whatever lies between.
                        let after = |(span, at)| (span, at, first - sinks);
                        let pieces =
                            new.pieces(0, sinks).into_iter().map(|(span, at)| (span, at, 0));
                        let rest = new.pieces(held, position).into_iter().map(after);
                        for (span, at, skipped) in pieces.chain(rest) {
                            let (row, at) = (kv_heads * width, bytes * at as u64);
                            let span = (span.start - skipped) * row..(span.end - skipped) * row;
                            let rows = rows.get(span).unwrap_or_default();
                            match Bits::of(self.format_of(id)) {
                                None => device.write(buffer, at, bytemuck::cast_slice(rows)),
                                Some(bits) => {
                                    let words = cache_codes::to_words(bits, rows, width);
                                    device.write(buffer, at, bytemuck::cast_slice(&words));
                                }
                            }
                        }
                    }
                    new.hold(self.number, position);
                    cache = Some(Arc::new(new));
                }
                if let Some(place) = self.caches.get_mut(id.0) {
                    place.iter().for_each(|old| old.release(self.number));
                    *place = cache;
                }
                self.bindings.clear();
            }
            _ => return Err(form()),
        }
        self.position = position;
        self.program.device.check()
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl<A: Gpu> Drop for GpuState<A> {
    fn drop(&mut self) {
        self.caches.iter().flatten().for_each(|cache| cache.release(self.number));
    }
}
