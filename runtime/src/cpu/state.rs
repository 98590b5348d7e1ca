//! The state of one sequence in the processor's memory.

use std::any::Any;

use super::kv::KvCache;
use crate::Error;
use crate::backend::SessionState;
use crate::error::grow;
use crate::op::StateId;
use crate::plan::{Plan, StateKind};

/// Recurrent tensors and key/value caches, in the plan's order.
#[derive(Clone)]
pub(super) struct CpuState {
    tensors: Vec<StateTensor>,
    /// Tokens taken so far: the position of the next one.
    pub position: usize,
}

#[derive(Clone)]
enum StateTensor {
    Dense(Vec<f32>),
    KeyValue(KvCache),
}

impl CpuState {
    pub(super) fn new(plan: &Plan) -> Result<Self, Error> {
        let tensors = plan.states.iter().map(|state| match &state.kind {
            StateKind::Tensor { shape } => {
                let mut tensor = Vec::new();
                grow(&mut tensor, shape.iter().product(), "a session's state")?;
                Ok(StateTensor::Dense(tensor))
            }
            StateKind::KeyValue { kv_heads, head_dim, window } => {
                Ok(StateTensor::KeyValue(KvCache::new(*kv_heads, *head_dim, *window)))
            }
        });
        Ok(Self { tensors: tensors.collect::<Result<_, Error>>()?, position: 0 })
    }

    /// A recurrent tensor.
    pub(super) fn dense(&mut self, id: StateId) -> &mut Vec<f32> {
        match &mut self.tensors[id.0] {
            StateTensor::Dense(tensor) => tensor,
            // The plan made both the op and the state.
            StateTensor::KeyValue(_) => unreachable!("state {} is a cache", id.0),
        }
    }

    /// A key/value cache.
    pub(super) fn cache(&mut self, id: StateId) -> &mut KvCache {
        match &mut self.tensors[id.0] {
            StateTensor::KeyValue(cache) => cache,
            // The plan made both the op and the state.
            StateTensor::Dense(_) => unreachable!("state {} is a tensor", id.0),
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
            StateTensor::KeyValue(cache) => cache.bytes(),
        };
        self.tensors.iter().map(bytes).sum()
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
