//! [`fit`]: which precisions of weights and states a model needs to run in a given memory.

use kinglet_models::ModelSpec;
use kinglet_quant::{Format, FormatError};

use super::{PrecisionSize, WeightPrecision};
use crate::plan::Plan;
use crate::weights::{Encoding, Weights};
use crate::{CacheType, Error, MemoryEstimate, ModelOptions, StateType};

/// First positions that a limited attention sees: the command line's default.
const SINKS: usize = 4;
/// Windows that are tried, from the widest.
const WINDOWS: [usize; 8] =
    [1 << 17, 1 << 16, 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11, 1 << 10];

/// How a model can run, with the memory that it needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitChoice {
    /// Bits of the matrices; `None` for the weights as they are stored.
    pub bits: Option<usize>,
    /// How keys and values are stored.
    pub cache: CacheType,
    /// How recurrent tensors are stored.
    pub state: StateType,
    /// Last positions that attention sees; `None` for all that the model asks for.
    pub window: Option<usize>,
    /// The memory of the model and one session.
    pub memory: MemoryEstimate,
}

impl FitChoice {
    /// About how much the model loses, in nats per token: the divergence that `quant/QUALITY.md` measures for the bits of weights on the
    /// demo model, and the rise of its loss that the README gives for the cache. It orders choices; it predicts nothing for other models.
    pub fn loss(&self) -> f64 {
        let weights = match self.bits {
            None => 0.0,
            Some(8..) => 0.0003,
            Some(6 | 7) => 0.0025,
            Some(5) => 0.0093,
            Some(4) => 0.0294,
            Some(3) => 0.12,
            Some(_) => 0.9,
        };
        let cache = match self.cache {
            CacheType::F32 => 0.0,
            CacheType::Affine8 => 0.00005,
            CacheType::Affine4 => 0.0014,
        };
        let state = match self.state {
            StateType::F32 => 0.0,
            StateType::F16 => 0.0001,
        };
        weights + cache + state
    }
}

/// The choices for a model, and what the smallest of all needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// For each precision of the weights the best choice that fits, the best of all first: attention to everything before windows,
    /// wider windows before narrower, then the least [`FitChoice::loss`]. Empty if nothing fits.
    pub choices: Vec<FitChoice>,
    /// The choice with the least memory, whether it fits or not.
    pub smallest: FitChoice,
}

/// Finds how the model `spec` with `weights` fits `memory` bytes, with one session of `context` tokens. Weights that are codes already
/// stay as they are stored.
///
/// # Errors
/// If a tensor of the model is not among the weights.
pub fn fit(spec: &ModelSpec, weights: &Weights, memory: u64, context: usize) -> Result<Fit, Error> {
    let plan = Plan::new(spec);
    let mut choices = Vec::new();
    let mut smallest: Option<FitChoice> = None;
    for (bits, size) in precisions(spec, weights)? {
        let mut best: Option<FitChoice> = None;
        for window in std::iter::once(None).chain(WINDOWS.map(Some)) {
            // A window as long as the context limits nothing.
            if window.is_some_and(|window| window + SINKS >= context) {
                continue;
            }
            for (_, cache) in CacheType::BITS {
                for (_, state) in StateType::BITS {
                    let choice =
                        choice(&plan, weights, bits, size, (*cache, *state, window), context)?;
                    if smallest.is_none_or(|least| choice.memory.total() < least.memory.total()) {
                        smallest = Some(choice);
                    }
                    let better = best.is_none_or(|best| choice.loss() < best.loss());
                    if choice.memory.total() <= memory && better {
                        best = Some(choice);
                    }
                }
            }
            // A narrower window only loses.
            if best.is_some() {
                break;
            }
        }
        choices.extend(best);
    }
    let rank = |choice: &FitChoice| choice.window.map_or(0, |window| usize::MAX - window);
    choices.sort_by(|a, b| rank(a).cmp(&rank(b)).then(a.loss().total_cmp(&b.loss())));
    let none =
        || Error::Option { name: "context", value: context.to_string(), expected: "at least 1" };
    Ok(Fit { choices, smallest: smallest.ok_or_else(none)? })
}

/// The precisions that the weights can have, each with its size in bytes.
fn precisions(spec: &ModelSpec, weights: &Weights) -> Result<Vec<(Option<usize>, u64)>, Error> {
    let mut stored = 0u64;
    let mut codes = false;
    for tensor in spec.tensors() {
        let found = weights.stored(tensor)?;
        stored = stored.saturating_add(found.bytes);
        codes |= matches!(found.encoding, Encoding::Quantized(_));
    }
    let mut all = vec![(None, stored)];
    if !codes {
        let affine = Format::AFFINE_BITS.iter().rev().map(|&bits| {
            let precision = WeightPrecision::Quantized(Format::affine(bits, 64)?);
            Ok((Some(bits), PrecisionSize::of(spec, Some(weights), precision).total()))
        });
        let affine: Result<Vec<_>, FormatError> = affine.collect();
        all.extend(affine.unwrap_or_default());
    }
    Ok(all)
}

fn choice(
    plan: &Plan,
    weights: &Weights,
    bits: Option<usize>,
    size: u64,
    (cache, state, window): (CacheType, StateType, Option<usize>),
    context: usize,
) -> Result<FitChoice, Error> {
    let options = ModelOptions::new().cache_type(cache).state_type(state);
    let options = match window {
        Some(window) => options.attention_window(window, SINKS),
        None => options,
    };
    let plan = options.limited(plan.clone())?;
    let mut memory = MemoryEstimate::of(&plan, weights, &options, context);
    memory.weights = size;
    Ok(FitChoice { bits, cache, state, window, memory })
}
