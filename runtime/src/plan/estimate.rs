//! Estimates the memory of a model before it is loaded.

use std::path::Path;

use crate::plan::Plan;
use crate::plan::op::{Cut, Scratch, Widths};
use crate::weights::Weights;
use crate::{Error, ModelOptions, read_spec, resolve_folder};

/// Tokens per step if the options don't say; the CPU backend's default.
const DEFAULT_CHUNK: usize = 512;
/// Tokens that a scan takes at once, on the CPU and on GPUs.
const SCAN_CHUNK: usize = 64;

/// Memory of a model and its first session, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEstimate {
    /// The tensors. The CPU backend maps them, so they count as page cache, which the system can
    /// reclaim and read again. Other devices hold a copy.
    pub weights: u64,
    /// State of one session at the requested context.
    pub state: u64,
    /// Activations of the largest step, its logits, and the scratch memory of its ops.
    pub working: u64,
}

impl MemoryEstimate {
    /// The sum of all.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.state).saturating_add(self.working)
    }

    /// Estimates a plan with its weights and one session of `context` tokens.
    pub fn of(plan: &Plan, weights: &Weights, options: &ModelOptions, context: usize) -> Self {
        let floats = |elements: usize| (elements as u64).saturating_mul(4);
        let chunk = options.chunk.unwrap_or(DEFAULT_CHUNK).clamp(1, 1 << 16);
        let state = plan.states.iter().map(|state| state.bytes(context) as u64);
        let slots = plan.slots.iter().map(|&width| floats(width).saturating_mul(chunk as u64));
        Self {
            weights: weights.total_bytes(),
            state: state.fold(0, u64::saturating_add),
            working: slots
                .fold(floats(plan.vocab), u64::saturating_add)
                .saturating_add(floats(scratch(plan, chunk))),
        }
    }
}

/// Elements of scratch memory for a step of `tokens` tokens. Ops use it in turn, so the largest of each kind counts.
fn scratch(plan: &Plan, tokens: usize) -> usize {
    let cut = Cut { tokens, few: 1, chunk: SCAN_CHUNK, max_bytes: u64::MAX };
    let (mut scratch, mut widths) = (Scratch::NONE, Widths::NONE);
    for op in &plan.ops {
        scratch = scratch.max(op.description().scratch(&cut));
        widths = widths.max(op.description().widths(1));
    }
    let Scratch { tokens: values, squares, states, chunks } = scratch;
    let Widths { prepared, queries, shares } = widths;
    let for_tokens = [prepared, queries, shares].map(|width| width.saturating_mul(tokens));
    let all = [values, squares, states, chunks].into_iter().chain(for_tokens);
    all.fold(0, usize::saturating_add)
}

/// Estimates the model in `folder` with one session of `context` tokens. Reads `config.json` and
/// the headers of the weights but no tensor, so it takes milliseconds.
///
/// # Errors
/// Those of [`Model::open`](crate::Model::open), as far as these files show them.
pub fn estimate(
    folder: impl AsRef<Path>,
    options: &ModelOptions,
    context: usize,
) -> Result<MemoryEstimate, Error> {
    let folder = &*resolve_folder(folder)?;
    let mut spec = read_spec(folder)?;
    let weights = Weights::open(folder)?;
    weights.fit_names(&mut spec);
    weights.fit_convs(&mut spec);
    weights.fit_factors(&mut spec)?;
    weights.check_whole(&spec)?;
    Ok(MemoryEstimate::of(&options.plan(&spec)?, &weights, options, context))
}
