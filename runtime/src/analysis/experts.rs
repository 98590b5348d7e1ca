//! [`ExpertUse`]: which experts a model's tokens use on a text.

use std::sync::Arc;

use crate::backend::cpu::CpuExecutable;
use crate::plan::Plan;
use crate::{Error, Model, ModelOptions};

/// How often a router chose each of its experts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertCounts {
    /// Index of the op in the model's plan.
    pub op: usize,
    /// Tokens of each expert.
    pub tokens: Vec<u64>,
    /// Sum of the router's weights of each expert.
    pub weights: Vec<f64>,
    /// Experts that a token uses.
    pub top_k: usize,
}

impl ExpertCounts {
    /// A count of nothing for each router of `plan`, in order.
    fn routers(plan: &Plan) -> Vec<Self> {
        let ops = plan.ops.iter().enumerate().filter_map(|(op, found)| {
            let input = found.description().projection_input()?;
            // Of the ops that read a router's choice, the first.
            let experts = input.experts.filter(|experts| experts.inner.is_none())?;
            let (tokens, weights) = (vec![0; experts.count], vec![0.0; experts.count]);
            Some(Self { op, tokens, weights, top_k: experts.top_k })
        });
        ops.collect()
    }

    /// Tokens that the router saw.
    pub fn seen(&self) -> u64 {
        self.tokens.iter().sum::<u64>() / self.top_k.max(1) as u64
    }

    /// The share of the tokens that use `expert`; 0 if there were none.
    pub fn share(&self, expert: usize) -> f64 {
        let tokens = self.tokens.get(expert).copied().unwrap_or(0);
        tokens as f64 / self.seen().max(1) as f64
    }

    /// Tokens of the most used expert, relative to the mean: 1 if all are used equally often, at most the number of experts.
    pub fn imbalance(&self) -> f64 {
        let most = self.tokens.iter().max().copied().unwrap_or(0);
        let all: u64 = self.tokens.iter().sum();
        if all == 0 { 1.0 } else { most as f64 * self.tokens.len() as f64 / all as f64 }
    }

    /// Experts that no token used.
    pub fn unused(&self) -> usize {
        self.tokens.iter().filter(|tokens| **tokens == 0).count()
    }
}

/// How often the experts of a model were used on a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertUse {
    /// Every router with the index of its layer, in order.
    pub layers: Vec<(usize, ExpertCounts)>,
}

/// Most tokens of a window.
const MOST: usize = 1 << 20;

impl ExpertUse {
    /// Runs `model` over `tokens` on the CPU, whatever its backend, in windows of `window` tokens, each from an empty state. `progress`
    /// gets the tokens done and their total after each window; `false` stops, and what was counted until then is returned.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, `window` is not from 1 to 2^20, or there is not enough memory.
    pub fn of(
        model: &Model,
        tokens: &[u32],
        window: usize,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Self, Error> {
        if !(1..=MOST).contains(&window) {
            let (name, value) = ("context", window.to_string());
            return Err(Error::Option { name, value, expected: "from 1 to 1048576" });
        }
        let vocab = model.vocab();
        if let Some((index, &id)) = tokens.iter().enumerate().find(|(_, id)| **id as usize >= vocab)
        {
            return Err(Error::TokenOutOfRange { id, index, vocab });
        }
        let options = ModelOptions::new().threads(model.threads());
        let plan = Arc::new(model.plan().clone());
        let mut counts = ExpertCounts::routers(&plan);
        let executable = CpuExecutable::new(plan, model.weights(), &options)?;
        let total = tokens.len() as u64;
        let mut done = 0;
        for window in tokens.chunks(window) {
            model.weights().check_unchanged()?;
            executable.count_experts(window, &mut counts)?;
            done += window.len() as u64;
            if !progress(done, total) {
                break;
            }
        }
        let spec = model.spec();
        let layers = spec.blocks.iter().flat_map(|block| {
            let routers = block.branches.iter().filter(|branch| {
                branch.mixer.parts().iter().any(|part| part.role == kinglet_models::Role::Router)
            });
            routers.map(|_| block.layer)
        });
        Ok(Self { layers: layers.zip(counts).collect() })
    }
}
