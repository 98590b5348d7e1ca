//! A feed-forward network that every token uses.

use crate::spec::Linear;

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Gated feed-forward network: `down(act(gate(x)) * up(x))` (Shazeer, "GLU Variants Improve Transformer", 2020).
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// `[inner, hidden]`.
    pub gate: Linear,
    /// `[inner, hidden]`.
    pub up: Linear,
    /// `[hidden, inner]`.
    pub down: Linear,
    /// Applied to the gate.
    pub activation: Activation,
}

/// Activation of a feed-forward gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * Phi(x)` with the error function.
    Gelu,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu (tanh)",
            Self::Relu => "relu",
        }
    }
}

describe!(Dense, |parts| Dense { gate, up, down, activation: _ } => {
    parts.linear(Role::Gate, gate);
    parts.linear(Role::Up, up);
    parts.linear(Role::Down, down);
});

impl Dense {
    /// Inner width: the rows of `gate` and `up`.
    pub fn inner(&self) -> usize {
        self.gate.weight.rows
    }

    /// The same network with an inner width of at most `most`.
    pub(super) fn sized(&self, hidden: usize, most: usize) -> Self {
        let inner = self.inner().min(most);
        Self {
            gate: self.gate.sized(inner, hidden),
            up: self.up.sized(inner, hidden),
            down: self.down.sized(hidden, inner),
            activation: self.activation,
        }
    }
}

impl Layer for Dense {
    fn kind(&self) -> &'static str {
        "dense ffn"
    }

    fn title(&self) -> &'static str {
        "feed-forward"
    }

    fn components(&self) -> &'static [&'static str] {
        &["dense ffn"]
    }

    fn section(&self) -> Section {
        Section::of(Module::FeedForward)
    }

    fn sizes(&self) -> String {
        format!("{} wide, {}", self.inner(), self.activation.name())
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        Mixer::Dense(self.sized(to.hidden, to.width))
    }
}
