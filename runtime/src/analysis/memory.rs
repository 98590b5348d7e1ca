//! [`StateMemory`] against the context, and what each layer sees of it ([`Sight`]).

use crate::plan::{Plan, StateKind};

/// The state of one session at some context, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateMemory {
    /// Tokens in the context.
    pub context: usize,
    /// Recurrent tensors, of constant size.
    pub recurrent: u64,
    /// Keys and values.
    pub key_value: u64,
}

impl StateMemory {
    /// The state of a session of `plan` with `context` tokens.
    pub fn of(plan: &Plan, context: usize) -> Self {
        let mut memory = Self { context, ..Self::default() };
        for state in &plan.states {
            let sum = match state.kind {
                StateKind::Tensor { .. } => &mut memory.recurrent,
                StateKind::KeyValue { .. } => &mut memory.key_value,
            };
            *sum = sum.saturating_add(state.bytes(context) as u64);
        }
        memory
    }

    /// Both.
    pub fn total(&self) -> u64 {
        self.recurrent.saturating_add(self.key_value)
    }
}

/// What a layer can see of the tokens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sight {
    /// Whether it has recurrent tensors, which hold a summary of all tokens.
    pub recurrent: bool,
    /// What its attention sees; `None` without attention.
    pub attention: Option<LayerMemory>,
}

/// What the attention of a layer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerMemory {
    /// The number of last positions; `None` for all.
    pub window: Option<usize>,
    /// The number of first positions, whatever the window.
    pub sinks: usize,
}

impl LayerMemory {
    /// Positions that the last of `context` tokens sees, its own included.
    pub fn seen(&self, context: usize) -> usize {
        self.window.map_or(context, |window| window.saturating_add(self.sinks).min(context))
    }
}

/// What each layer with a state sees, by the layer's number, in order.
pub fn sights(plan: &Plan) -> Vec<(usize, Sight)> {
    let mut sights: Vec<(usize, Sight)> = Vec::new();
    for state in &plan.states {
        let number = state.name.split('.').nth(1).and_then(|number| number.parse().ok());
        let Some(layer) = number else { continue };
        if sights.last().is_none_or(|(last, _)| *last != layer) {
            sights.push((layer, Sight { recurrent: false, attention: None }));
        }
        let Some((_, sight)) = sights.last_mut() else { continue };
        match state.kind {
            StateKind::Tensor { .. } => sight.recurrent = true,
            StateKind::KeyValue { window, sinks, .. } => {
                sight.attention = Some(LayerMemory { window, sinks });
            }
        }
    }
    sights
}
