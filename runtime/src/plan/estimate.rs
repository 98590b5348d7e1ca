//! What a model will take of memory, told before it is loaded.

use std::path::Path;

use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, ModelOptions, read_spec, resolve_folder};

/// Tokens of a step where the options don't say: as the CPU backend's.
const DEFAULT_CHUNK: usize = 512;

/// Bytes that a model and its first session take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEstimate {
    /// The tensors. The CPU backend maps them: they count as cache, which the system can take back and read
    /// again. Other devices hold a copy.
    pub weights: u64,
    /// State of one session at the context that was asked for.
    pub state: u64,
    /// Activations of the largest step, and its logits. What single ops need besides is not counted.
    pub working: u64,
}

impl MemoryEstimate {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.state).saturating_add(self.working)
    }

    /// For a plan over weights, with one session of `context` tokens.
    pub fn of(plan: &Plan, weights: &Weights, options: &ModelOptions, context: usize) -> Self {
        let floats = |elements: usize| (elements as u64).saturating_mul(4);
        let chunk = options.chunk.unwrap_or(DEFAULT_CHUNK).clamp(1, 1 << 16);
        let state = plan.states.iter().map(|state| state.bytes(context) as u64);
        let slots = plan.slots.iter().map(|&width| floats(width).saturating_mul(chunk as u64));
        Self {
            weights: weights.total_bytes(),
            state: state.fold(0, u64::saturating_add),
            working: slots.fold(floats(plan.vocab), u64::saturating_add),
        }
    }
}

/// What the model in `folder` and one session of `context` tokens will take. Reads `config.json` and the headers of
/// the weights; touches no tensor, so that it takes milliseconds.
///
/// # Errors
/// As [`Model::open`](crate::Model::open), as far as these files tell.
pub fn estimate(
    folder: impl AsRef<Path>,
    options: &ModelOptions,
    context: usize,
) -> Result<MemoryEstimate, Error> {
    let folder = &*resolve_folder(folder)?;
    let mut spec = read_spec(folder)?;
    let weights = Weights::open(folder)?;
    weights.fit_names(&mut spec);
    weights.check_whole(&spec)?;
    Ok(MemoryEstimate::of(&options.plan(&spec)?, &weights, options, context))
}
