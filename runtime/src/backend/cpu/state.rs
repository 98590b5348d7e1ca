//! The state of one sequence in the host's memory.

#![deny(clippy::wildcard_enum_match_arm)]

use std::any::Any;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::kv::KvCache;
use super::kv_page::{PageShape, unshare};
use super::step::Scratch;
use crate::Error;
use crate::backend::executable::{ExportFuture, PortableState, SessionState};
use crate::error::grow;
use crate::plan::op::{AttentionSpan, StateId};
use crate::plan::{Plan, StateFormat, StateKind};

/// Recurrent tensors and key/value caches, in the plan's order. A snapshot shares all memory: a
/// tensor is copied when the next step begins, a page of a cache when it is written to.
#[derive(Clone)]
pub(super) struct CpuState {
    tensors: Vec<StateTensor>,
    /// Tokens taken so far, which is the position of the next one.
    pub position: usize,
}

#[derive(Clone)]
enum StateTensor {
    Dense(Arc<Vec<f32>>),
    /// Stored as f16. Within an op that uses it, `values` are what it computes with.
    Half {
        stored: Arc<Vec<f16>>,
        values: Vec<f32>,
    },
    KeyValue(KvCache),
}

/// Rounds a tensor to f16. Values that are too large become the largest number: an infinity would
/// never go away.
fn narrow(values: &mut [f32], stored: &mut [f16]) {
    let most = f16::MAX.to_f32();
    values.iter_mut().for_each(|x| *x = x.clamp(-most, most));
    stored.convert_from_f32_slice(values);
}

/// A vector of `len` copies of `value`.
fn filled<T: Clone>(len: usize, value: T, what: &'static str) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    vec.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { what, bytes })?;
    vec.resize(len, value);
    Ok(vec)
}

impl CpuState {
    pub(super) fn new(plan: &Plan) -> Result<Self, Error> {
        let what = "a session's state";
        let tensors = plan.states.iter().map(|state| match &state.kind {
            StateKind::Tensor { shape } => {
                let len = shape.iter().product();
                Ok(match state.format {
                    // The plan quantizes only caches.
                    StateFormat::F32 | StateFormat::Affine8 | StateFormat::Affine4 => {
                        let mut tensor = Vec::new();
                        grow(&mut tensor, len, what)?;
                        StateTensor::Dense(Arc::new(tensor))
                    }
                    StateFormat::F16 => {
                        let stored = Arc::new(filled(len, f16::ZERO, what)?);
                        StateTensor::Half { stored, values: Vec::new() }
                    }
                })
            }
            StateKind::KeyValue { kv_heads, key_dim, value_dim, window, sinks } => {
                let span = AttentionSpan { window: *window, sinks: *sinks };
                let shape = PageShape { key: *key_dim, value: *value_dim };
                Ok(StateTensor::KeyValue(KvCache::new(*kv_heads, shape, span, state.format)))
            }
        });
        Ok(Self { tensors: tensors.collect::<Result<_, Error>>()?, position: 0 })
    }

    /// Makes the recurrent tensors unshared, so that a step can write to them.
    pub(super) fn unshare(&mut self) -> Result<(), Error> {
        for tensor in &mut self.tensors {
            match tensor {
                StateTensor::Dense(tensor) => unshare(tensor, "a session's state")?,
                StateTensor::Half { stored, .. } => unshare(stored, "a session's state")?,
                StateTensor::KeyValue(_) => {}
            }
        }
        Ok(())
    }

    /// Prepares a tensor for computing. If it is stored as f16, it is widened into memory from
    /// `scratch`.
    pub(super) fn widen(&mut self, id: StateId, scratch: &mut Scratch) -> Result<(), Error> {
        if let Some(StateTensor::Half { stored, values }) = self.tensors.get_mut(id.0) {
            let mut wide = scratch.take(stored.len())?;
            wide.truncate(stored.len());
            stored.convert_to_f32_slice(&mut wide);
            *values = wide;
        }
        Ok(())
    }

    /// Stores what was computed since [`Self::widen`].
    pub(super) fn narrow(&mut self, id: StateId, scratch: &mut Scratch) {
        if let Some(StateTensor::Half { stored, values }) = self.tensors.get_mut(id.0) {
            // Copies nothing, since the step began with `unshare`.
            let stored: &mut Vec<f16> = Arc::make_mut(stored);
            narrow(values, stored);
            scratch.give(std::mem::take(values));
        }
    }

    /// A recurrent tensor.
    pub(super) fn dense(&mut self, id: StateId) -> &mut Vec<f32> {
        match &mut self.tensors[id.0] {
            // Copies nothing, since the step began with `unshare`.
            StateTensor::Dense(tensor) => Arc::make_mut(tensor),
            StateTensor::Half { values, .. } => values,
            // The plan made both the op and the state.
            StateTensor::KeyValue(_) => unreachable!("state {} is a cache", id.0),
        }
    }

    /// A key/value cache.
    pub(super) fn cache(&mut self, id: StateId) -> &mut KvCache {
        match &mut self.tensors[id.0] {
            StateTensor::KeyValue(cache) => cache,
            // The plan made both the op and the state.
            StateTensor::Dense(_) | StateTensor::Half { .. } => {
                unreachable!("state {} is a tensor", id.0)
            }
        }
    }

    fn caches(&self) -> impl Iterator<Item = &KvCache> {
        self.tensors.iter().filter_map(|tensor| match tensor {
            StateTensor::KeyValue(cache) => Some(cache),
            StateTensor::Dense(_) | StateTensor::Half { .. } => None,
        })
    }

    fn exported(&self, id: StateId) -> Result<PortableState, Error> {
        match self.tensors.get(id.0) {
            Some(StateTensor::Dense(tensor)) => {
                let mut copy = Vec::new();
                grow(&mut copy, tensor.len(), "a copy of a session's state")?;
                copy.copy_from_slice(tensor);
                Ok(PortableState::Tensor(copy))
            }
            Some(StateTensor::Half { stored, .. }) => {
                let mut wide = Vec::new();
                grow(&mut wide, stored.len(), "a copy of a session's state")?;
                stored.convert_to_f32_slice(&mut wide);
                Ok(PortableState::Tensor(wide))
            }
            Some(StateTensor::KeyValue(cache)) => cache.export(self.position),
            None => Err(Error::StateForm { id: id.0 }),
        }
    }
}

impl SessionState for CpuState {
    fn snapshot(&self) -> Result<Box<dyn SessionState>, Error> {
        Ok(Box::new(self.clone()))
    }

    fn bytes(&self) -> usize {
        let bytes = |tensor: &StateTensor| match tensor {
            StateTensor::Dense(tensor) => 4 * tensor.len(),
            StateTensor::Half { stored, .. } => 2 * stored.len(),
            StateTensor::KeyValue(cache) => cache.bytes(),
        };
        self.tensors.iter().map(bytes).sum()
    }

    fn blocks(&self, visit: &mut dyn FnMut(usize, usize)) {
        for tensor in &self.tensors {
            match tensor {
                StateTensor::Dense(tensor) => visit(Arc::as_ptr(tensor).addr(), 4 * tensor.len()),
                StateTensor::Half { stored, .. } => {
                    visit(Arc::as_ptr(stored).addr(), 2 * stored.len());
                }
                StateTensor::KeyValue(cache) => cache.blocks(visit),
            }
        }
    }

    fn attention_floor(&self) -> usize {
        self.caches().map(KvCache::floor).max().unwrap_or(0)
    }

    fn cut_attention(&mut self, position: usize) -> Result<(), Error> {
        if position < self.attention_floor() || position > self.position {
            return Err(Error::CutOutOfRange { position, held: self.position });
        }
        for tensor in &mut self.tensors {
            if let StateTensor::KeyValue(cache) = tensor {
                cache.cut(position);
            }
        }
        self.position = position;
        Ok(())
    }

    fn export(&self, id: StateId) -> ExportFuture<'_> {
        Box::pin(async move { self.exported(id) })
    }

    fn import(&mut self, position: usize, id: StateId, state: PortableState) -> Result<(), Error> {
        let form = Error::StateForm { id: id.0 };
        match (self.tensors.get_mut(id.0), state) {
            (Some(StateTensor::Dense(tensor)), PortableState::Tensor(values)) => {
                if values.len() != tensor.len() {
                    return Err(form);
                }
                *tensor = Arc::new(values);
            }
            (Some(StateTensor::Half { stored, .. }), PortableState::Tensor(mut values)) => {
                if values.len() != stored.len() {
                    return Err(form);
                }
                let mut halves = filled(values.len(), f16::ZERO, "a session's state")?;
                narrow(&mut values, &mut halves);
                *stored = Arc::new(halves);
            }
            (
                Some(StateTensor::KeyValue(cache)),
                PortableState::KeyValue { first, keys, values },
            ) => {
                if !cache.fits((first, position), keys.len(), values.len()) {
                    return Err(form);
                }
                cache.import((first, position), &keys, &values)?;
            }
            _ => return Err(form),
        }
        self.position = position;
        Ok(())
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
