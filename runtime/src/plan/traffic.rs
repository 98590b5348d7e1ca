//! The bytes that a decoded token must move: the yardstick of decode speed.

#![deny(clippy::wildcard_enum_match_arm)]

use crate::Error;
use crate::plan::{Plan, StateKind};
use crate::weights::Weights;

/// The least number of bytes that decoding one token moves, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Weights read: all matrices, but only the experts that a token uses.
    pub weights: u64,
    /// Recurrent state, read and written.
    pub state: u64,
    /// Keys and values read.
    pub key_value: u64,
}

impl Traffic {
    /// The traffic of decoding one token of `plan` at position `depth`.
    ///
    /// # Errors
    /// If a tensor of the plan is not among the weights.
    pub fn of_decode(plan: &Plan, weights: &Weights, depth: usize) -> Result<Self, Error> {
        let mut traffic = Self::default();
        for op in &plan.ops {
            let uses = op.uses();
            for matrix in &uses.matrices {
                let data = weights.matrix(matrix)?;
                traffic.weights += data.byte_len() as u64;
            }
            // A token uses some of the experts, so count that share of their bytes.
            let (mut all, mut share) = (0, 0);
            for (used, matrix) in &uses.experts {
                all += weights.matrix(matrix)?.byte_len() as u64;
                share = *used as u64;
            }
            traffic.weights += all * share / uses.expert_count.max(1) as u64;
            for vector in &uses.vectors {
                let tensor = weights.get(&vector.name)?;
                traffic.weights += tensor.byte_len() as u64;
            }
            for table in &uses.rows {
                traffic.weights += weights.matrix(table)?.row_bytes() as u64;
            }
        }
        for state in &plan.states {
            let bytes = state.bytes(depth) as u64;
            match state.kind {
                StateKind::Tensor { .. } => traffic.state += 2 * bytes,
                StateKind::KeyValue { .. } => traffic.key_value += bytes,
            }
        }
        Ok(traffic)
    }

    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.weights + self.state + self.key_value
    }
}
