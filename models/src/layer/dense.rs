//! A feed-forward network that every token uses.

use crate::spec::Linear;

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Feed-forward network: gated, `down(act(gate(x)) * up(x))` (Shazeer, "GLU Variants Improve Transformer", 2020), or plain,
/// `down(act(up(x)))` (Vaswani et al., 2017, section 3.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// `[inner, hidden]`; none in a plain network.
    pub gate: Option<Linear>,
    /// `[inner, hidden]`.
    pub up: Linear,
    /// `[hidden, inner]`.
    pub down: Linear,
    /// On the gate, or in a plain network on `up`.
    pub activation: Activation,
}

/// Activation of a feed-forward network.
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
    /// `max(x, 0)^2` (So et al., "Primer", 2021, section 4).
    Relu2,
}

impl Activation {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu (tanh)",
            Self::Relu => "relu",
            Self::Relu2 => "relu^2",
        }
    }
}

describe!(Dense, |parts| Dense { gate, up, down, activation: _ } => {
    if let Some(gate) = gate {
        parts.linear(Role::Gate, gate);
    }
    parts.linear(Role::Up, up);
    parts.linear(Role::Down, down);
});

impl Dense {
    /// Inner width: the rows of `gate` and `up`.
    pub fn inner(&self) -> usize {
        self.up.weight.rows
    }

    /// Its activation, and that it has no gate.
    pub(super) fn words(&self) -> String {
        let plain = if self.gate.is_none() { ", ungated" } else { "" };
        format!("{}{plain}", self.activation.name())
    }

    /// The same network with an inner width of at most `most`.
    pub(super) fn sized(&self, hidden: usize, most: usize) -> Self {
        let inner = self.inner().min(most);
        Self {
            gate: self.gate.as_ref().map(|gate| gate.sized(inner, hidden)),
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
        format!("{} wide, {}", self.inner(), self.words())
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        Mixer::Dense(self.sized(to.hidden, to.width))
    }
}
