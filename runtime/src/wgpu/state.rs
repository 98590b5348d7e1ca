//! The state of one sequence in the device's memory.

use std::any::Any;
use std::sync::Arc;

use super::executable::Program;
use super::program::Over;
use crate::Error;
use crate::backend::SessionState;
use crate::op::StateId;
use crate::plan::StateKind;

/// Positions that a cache has room for at first.
const FIRST_CAPACITY: usize = 64;

/// Recurrent tensors and key/value caches, in the plan's order.
pub(super) struct WgpuState {
    program: Arc<Program>,
    tensors: Vec<StateTensor>,
    /// For each dispatch that works on a state.
    bind_groups: Vec<Option<wgpu::BindGroup>>,
    /// Tokens taken so far: the position of the next one.
    pub position: usize,
    /// Which half of a doubled tensor holds what was left last.
    pub parity: u32,
}

enum StateTensor {
    /// `f32`, twice where a kernel must not write where it reads.
    Tensor(wgpu::Buffer),
    /// Keys and values, `[capacity, kv_heads, head_dim]` each; a position's place is its remainder by the
    /// capacity. Nothing before the first token.
    KeyValue { halves: Option<[wgpu::Buffer; 2]>, capacity: usize },
}

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_DST)
    .union(wgpu::BufferUsages::COPY_SRC);

impl WgpuState {
    pub(super) fn new(program: Arc<Program>) -> Result<Self, Error> {
        let mut tensors = Vec::new();
        for (index, state) in program.plan.states.iter().enumerate() {
            tensors.push(match &state.kind {
                StateKind::Tensor { shape } => {
                    let times = if program.doubled[index] { 2 } else { 1 };
                    let bytes = 4 * times * shape.iter().product::<usize>() as u64;
                    StateTensor::Tensor(program.device.buffer("a session's state", bytes, USAGE)?)
                }
                StateKind::KeyValue { .. } => StateTensor::KeyValue { halves: None, capacity: 0 },
            });
        }
        let bind_groups = program.dispatches.iter().map(|_| None).collect();
        let mut state = Self { program, tensors, bind_groups, position: 0, parity: 0 };
        if !state.has_caches() {
            state.bind(None)?;
        }
        Ok(state)
    }

    fn has_caches(&self) -> bool {
        self.tensors.iter().any(|tensor| matches!(tensor, StateTensor::KeyValue { .. }))
    }

    /// Whether this is a state of `program`.
    pub(super) fn belongs_to(&self, program: &Arc<Program>) -> bool {
        Arc::ptr_eq(&self.program, program)
    }

    /// The bindings of dispatch `index`.
    pub(super) fn bind_group(&self, index: usize) -> Option<&wgpu::BindGroup> {
        self.bind_groups.get(index)?.as_ref()
    }

    /// Makes the bindings of all dispatches on states: those that see `grown`, or all that are not there.
    fn bind(&mut self, grown: Option<&[StateId]>) -> Result<(), Error> {
        for (index, dispatch) in self.program.dispatches.iter().enumerate() {
            if dispatch.over != Over::Runs {
                continue;
            }
            let touched =
                grown.is_some_and(|grown| dispatch.states().any(|id| grown.contains(&id)));
            if self.bind_groups[index].is_some() && !touched {
                continue;
            }
            let tensors = &self.tensors;
            let part = |id: StateId, part: usize| match tensors.get(id.0)? {
                StateTensor::Tensor(buffer) => Some(buffer.clone()),
                StateTensor::KeyValue { halves, .. } => halves.as_ref()?.get(part).cloned(),
            };
            self.bind_groups[index] = Some(dispatch.bind(&self.program.device, part)?);
        }
        Ok(())
    }

    /// Makes room for `len` more positions in the caches.
    ///
    /// # Errors
    /// When a cache would be larger than the device allows, or there is no memory.
    pub(super) fn reserve(&mut self, len: usize) -> Result<(), Error> {
        if !self.has_caches() {
            return Ok(());
        }
        let program = self.program.clone();
        let device = &program.device;
        let mut grown = Vec::new();
        let mut encoder = device.device.create_command_encoder(&Default::default());
        for (index, tensor) in self.tensors.iter_mut().enumerate() {
            let (StateTensor::KeyValue { halves, capacity }, Some(state)) =
                (tensor, program.plan.states.get(index))
            else {
                continue;
            };
            let StateKind::KeyValue { kv_heads, head_dim, window } = &state.kind else { continue };
            let all = self.position.saturating_add(len);
            // A step's first query must still see its window when the last key has been written.
            let most = window.map_or(usize::MAX, |window| window.saturating_add(program.chunk));
            let needed = all.min(most);
            if needed <= *capacity {
                continue;
            }
            // Twice as much, so that copies cost a constant per position; never more than can be bound.
            let row = 4 * (kv_heads * head_dim) as u64;
            let bound = usize::try_from(device.max_binding / row).unwrap_or(usize::MAX);
            let new = needed.max(capacity.saturating_mul(2)).max(FIRST_CAPACITY).min(most);
            let new = new.min(bound.max(needed));
            let bytes = row.saturating_mul(new as u64);
            let pair = [
                device.buffer("a key/value cache", bytes, USAGE)?,
                device.buffer("a key/value cache", bytes, USAGE)?,
            ];
            if let Some(old) = halves {
                for (old, new) in old.iter().zip(&pair) {
                    encoder.copy_buffer_to_buffer(old, 0, new, 0, Some(row * *capacity as u64));
                }
            }
            (*halves, *capacity) = (Some(pair), new);
            grown.push(StateId(index));
        }
        if !grown.is_empty() {
            device.queue.submit([encoder.finish()]);
            self.bind(Some(&grown))?;
        }
        Ok(())
    }
}

impl SessionState for WgpuState {
    fn snapshot(&self) -> Result<Box<dyn SessionState>, Error> {
        let device = &self.program.device;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        let mut copy = |buffer: &wgpu::Buffer| {
            let new = device.buffer("a session's state", buffer.size(), USAGE)?;
            encoder.copy_buffer_to_buffer(buffer, 0, &new, 0, None);
            Ok::<_, Error>(new)
        };
        let mut tensors = Vec::new();
        for tensor in &self.tensors {
            tensors.push(match tensor {
                StateTensor::Tensor(buffer) => StateTensor::Tensor(copy(buffer)?),
                StateTensor::KeyValue { halves: None, capacity } => {
                    StateTensor::KeyValue { halves: None, capacity: *capacity }
                }
                StateTensor::KeyValue { halves: Some([keys, values]), capacity } => {
                    let halves = Some([copy(keys)?, copy(values)?]);
                    StateTensor::KeyValue { halves, capacity: *capacity }
                }
            });
        }
        device.queue.submit([encoder.finish()]);
        let mut state = Self {
            program: self.program.clone(),
            tensors,
            bind_groups: self.bind_groups.iter().map(|_| None).collect(),
            position: self.position,
            parity: self.parity,
        };
        if self.position > 0 || !self.has_caches() {
            state.bind(None)?;
        }
        device.check()?;
        Ok(Box::new(state))
    }

    fn bytes(&self) -> usize {
        let bytes = |tensor: &StateTensor| match tensor {
            StateTensor::Tensor(buffer) => buffer.size(),
            StateTensor::KeyValue { halves, .. } => {
                halves.iter().flatten().map(wgpu::Buffer::size).sum()
            }
        };
        self.tensors.iter().map(|tensor| bytes(tensor) as usize).sum()
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
