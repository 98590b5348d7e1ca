//! A feed-forward network that every token uses.

use std::fmt;

use crate::spec::{Adapter, Linear};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Feed-forward network: gated, `down(act(gate(x)) * up(x))` (Shazeer, "GLU Variants Improve Transformer", 2020), or plain,
/// `down(act(up(x)))` (Vaswani et al., 2017, section 3.3).
#[derive(Clone, PartialEq)]
pub struct Dense {
    /// `[inner, hidden]`; none in a plain network.
    pub gate: Option<Linear>,
    /// `[inner, hidden]`.
    pub up: Linear,
    /// `[hidden, inner]`.
    pub down: Linear,
    /// On the gate, or in a plain network on `up`.
    pub activation: Activation,
    /// What is added to the results of `gate` and `up`, in this order: `[2 * inner, hidden]` in all. Networks that are shared between
    /// layers have one for each use (Zamba2, arXiv:2411.15242, section 2). Only gated networks have it.
    pub adapter: Option<Box<Adapter>>,
    /// `[hidden, hidden]`: a projection of the network's result (Zamba's `linear`).
    pub out: Option<Box<Linear>>,
}

impl fmt::Debug for Dense {
    // Saved sessions identify a model by this text, so it omits what most models don't have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gate, up, down, activation, adapter, out } = self;
        let mut fields = f.debug_struct("Dense");
        fields.field("gate", gate).field("up", up).field("down", down);
        fields.field("activation", activation);
        if let Some(adapter) = adapter {
            fields.field("adapter", adapter);
        }
        if let Some(out) = out {
            fields.field("out", out);
        }
        fields.finish()
    }
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

describe!(Dense, |parts| Dense { gate, up, down, activation: _, adapter, out } => {
    if let Some(gate) = gate {
        parts.linear(Role::Gate, gate);
    }
    parts.linear(Role::Up, up);
    parts.linear(Role::Down, down);
    // Experts have neither.
    if adapter.is_some() || out.is_some() {
        parts.section(Section::of(Module::Own));
    }
    if let Some(adapter) = adapter {
        parts.nested(adapter);
    }
    if let Some(out) = out {
        parts.linear(Role::Out, out);
    }
});

describe!(Adapter, |parts| Adapter { down, up } => {
    parts.linear(Role::Adapter, down);
    parts.linear(Role::Adapter, up);
});

impl Adapter {
    /// The same between other sizes.
    pub(super) fn sized(&self, outputs: usize, inputs: usize) -> Self {
        let rank = self.down.weight.rows;
        Self { down: self.down.sized(rank, inputs), up: self.up.sized(outputs, rank) }
    }
}

impl Dense {
    /// Inner width: the rows of `gate` and `up`.
    pub fn inner(&self) -> usize {
        self.up.weight.rows
    }

    /// Whether any of its projections has a bias.
    pub fn is_biased(&self) -> bool {
        let projections = self.gate.iter().chain([&self.up, &self.down]);
        projections.into_iter().any(|linear| linear.bias.is_some())
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
            adapter: self
                .adapter
                .as_ref()
                .map(|adapter| Box::new(adapter.sized(2 * inner, hidden))),
            out: self.out.as_ref().map(|out| Box::new(out.sized(hidden, hidden))),
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
        let adapter = match &self.adapter {
            Some(adapter) => format!(", adapter of rank {}", adapter.down.weight.rows),
            None => String::new(),
        };
        let out = if self.out.is_some() { ", projected" } else { "" };
        format!("{} wide, {}{adapter}{out}", self.inner(), self.words())
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        Mixer::Dense(self.sized(to.hidden, to.width))
    }
}
