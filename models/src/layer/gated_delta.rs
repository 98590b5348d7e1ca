//! Linear attention by the gated delta rule: Gated DeltaNet and Kimi Delta Attention.

use crate::spec::{Conv, Linear, Norm, TensorSpec};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Gated DeltaNet (Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024, arXiv:2412.06464) and, with a decay for each channel of
/// a head's keys, Kimi Delta Attention (Kimi Team, "Kimi Linear", 2025, arXiv:2510.26692).
///
/// With `[q | k | v] = silu(conv([q(u) | k(u) | v(u)]))`, `q` and `k` of each head of unit length and `q` over `sqrt(key_dim)`; for
/// value head `h` with key head `h / (value_heads / key_heads)`: `beta = beta_scale sigmoid(beta(u))`,
/// `g = -exp(a_log) softplus(decay(u) + dt_bias)`, `S = diag(e^g) S`, `S = S + k (beta (v - S^T k))^T`, `o = S^T q`; then an RMS norm of
/// each head, times the activated gate, and `out_proj`.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedDelta {
    /// From the residual stream to queries, keys, values and gates.
    pub inputs: DeltaInputs,
    /// Over the channels of q, k and v: one for all, or one for each. All have the same number of taps.
    pub convs: Vec<Conv>,
    /// Factor on the sigmoid of `beta`: 2 where the state's transition may have negative eigenvalues (Grazzi et al., 2024,
    /// arXiv:2411.12537), else 1.
    pub beta_scale: f32,
    /// Whether each channel of a head's keys decays by itself.
    pub per_channel: bool,
    /// `value_heads` elements.
    pub a_log: TensorSpec,
    /// As many elements as there are decays: [`GatedDelta::decays`].
    pub dt_bias: TensorSpec,
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values, a multiple of `key_heads`.
    pub value_heads: usize,
    /// Width of queries and keys of a head.
    pub key_dim: usize,
    /// Width of values of a head.
    pub value_dim: usize,
    /// Weight `[value_dim]`, common to all heads, and epsilon.
    pub norm: Norm,
    /// What the output gate passes through.
    pub gate_activation: GateActivation,
    /// `[hidden, value_heads * value_dim]`.
    pub out_proj: Linear,
}

/// How a checkpoint holds the projections from the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub enum DeltaInputs {
    /// One by one.
    Separate(Box<DeltaProjections>),
    /// Rows by key head.
    ByKeyHead(Box<KeyHeadProjections>),
}

/// Projections of which the rows of a key head are together, with one decay for each value head; without biases (Qwen3-Next).
#[derive(Clone, Debug, PartialEq)]
pub struct KeyHeadProjections {
    /// For each key head: its query, its key, the values of its value heads, their output gates.
    pub qkvg: Linear,
    /// For each key head: the betas of its value heads, their decays.
    pub beta_decay: Linear,
}

/// Projections from the residual stream, each by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaProjections {
    /// `[key_heads * key_dim, hidden]`.
    pub q: Linear,
    /// `[key_heads * key_dim, hidden]`.
    pub k: Linear,
    /// `[value_heads * value_dim, hidden]`.
    pub v: Linear,
    /// `[value_heads * value_dim, hidden]`: the output gate.
    pub gate: DeltaProjection,
    /// `[decays, hidden]`: how fast the state decays.
    pub decay: DeltaProjection,
    /// `[value_heads, hidden]`: how much of a new value is written.
    pub beta: Linear,
}

/// A projection from the residual stream.
#[derive(Clone, Debug, PartialEq)]
pub enum DeltaProjection {
    /// `[rows, hidden]`.
    Full(Linear),
    /// `up(down(u))`.
    LowRank {
        /// `[rank, hidden]`.
        down: Linear,
        /// `[rows, rank]`.
        up: Linear,
    },
}

/// The activation of an output gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GateActivation {
    /// `x sigmoid(x)`.
    Silu,
    /// `sigmoid(x)`.
    Sigmoid,
}

describe!(GatedDelta, |parts| GatedDelta {
    inputs,
    convs,
    a_log,
    dt_bias,
    norm,
    out_proj,
    beta_scale: _,
    per_channel: _,
    key_heads: _,
    value_heads: _,
    key_dim: _,
    value_dim: _,
    gate_activation: _,
} => {
    match inputs {
        DeltaInputs::Separate(projections) => parts.nested(projections),
        DeltaInputs::ByKeyHead(projections) => parts.nested(projections),
    }
    for conv in convs {
        parts.conv(conv);
    }
    parts.vector(Role::Decay, a_log);
    parts.vector(Role::TimeBias, dt_bias);
    parts.norm(norm);
    parts.linear(Role::Out, out_proj);
});

describe!(DeltaProjections, |parts| DeltaProjections { q, k, v, gate, decay, beta } => {
    parts.linear(Role::Query, q);
    parts.linear(Role::Key, k);
    parts.linear(Role::Value, v);
    match gate {
        DeltaProjection::Full(gate) => parts.linear(Role::OutputGate, gate),
        DeltaProjection::LowRank { down, up } => {
            parts.linear(Role::OutputGate, down);
            parts.linear(Role::OutputGate, up);
        }
    }
    match decay {
        DeltaProjection::Full(decay) => parts.linear(Role::CellGate, decay),
        DeltaProjection::LowRank { down, up } => {
            parts.linear(Role::TimeStep, down);
            parts.linear(Role::TimeStep, up);
        }
    }
    parts.linear(Role::CellGate, beta);
});

describe!(KeyHeadProjections, |parts| KeyHeadProjections { qkvg, beta_decay } => {
    parts.linear(Role::In, qkvg);
    parts.linear(Role::CellGate, beta_decay);
});

impl GatedDelta {
    /// Decays of a token: one for each value head, or for each channel of each head's keys.
    pub fn decays(&self) -> usize {
        self.value_heads * if self.per_channel { self.key_dim } else { 1 }
    }
}

impl DeltaProjection {
    /// The same with `rows` rows.
    fn sized(&self, rows: usize, hidden: usize) -> Self {
        match self {
            Self::Full(linear) => Self::Full(linear.sized(rows, hidden)),
            Self::LowRank { down, up } => {
                let rank = down.weight.rows;
                Self::LowRank { down: down.sized(rank, hidden), up: up.sized(rows, rank) }
            }
        }
    }
}

impl DeltaInputs {
    /// The same for `keys` channels of queries and of keys, `values` of values, `heads` value heads and `decays`.
    fn sized(&self, [keys, values, heads, decays]: [usize; 4], hidden: usize) -> Self {
        match self {
            Self::Separate(all) => Self::Separate(Box::new(DeltaProjections {
                q: all.q.sized(keys, hidden),
                k: all.k.sized(keys, hidden),
                v: all.v.sized(values, hidden),
                gate: all.gate.sized(values, hidden),
                decay: all.decay.sized(decays, hidden),
                beta: all.beta.sized(heads, hidden),
            })),
            Self::ByKeyHead(all) => Self::ByKeyHead(Box::new(KeyHeadProjections {
                qkvg: all.qkvg.sized(2 * (keys + values), hidden),
                beta_decay: all.beta_decay.sized(2 * heads, hidden),
            })),
        }
    }
}

impl Layer for GatedDelta {
    fn kind(&self) -> &'static str {
        "gated delta"
    }

    fn title(&self) -> &'static str {
        if self.per_channel { "Kimi Delta Attention" } else { "Gated DeltaNet" }
    }

    fn components(&self) -> &'static [&'static str] {
        &["gated_delta"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let mut text = format!(
            "{} of {}, keys of {}",
            super::plural(self.value_heads, "head"),
            self.value_dim,
            self.key_dim
        );
        if self.key_heads != self.value_heads {
            text += &format!(" in {}", super::plural(self.key_heads, "head"));
        }
        if self.beta_scale != 1.0 {
            text += &format!(", betas up to {}", self.beta_scale);
        }
        if let Some(conv) = self.convs.first() {
            text += &format!(", conv {}", conv.kernel);
        }
        text
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let share = (self.value_heads / self.key_heads.max(1)).max(1);
        // Enough heads for a row of the output projection to be whole groups of any quantized format.
        let least = (to.width / 2).div_ceil((share * self.value_dim).max(1)).max(to.heads);
        let key_heads = self.key_heads.min(least);
        let value_heads = key_heads * share;
        let (keys, values) = (key_heads * self.key_dim, value_heads * self.value_dim);
        let channels = |conv: usize| match (self.convs.len(), conv) {
            (1, _) => 2 * keys + values,
            (_, 0 | 1) => keys,
            _ => values,
        };
        let convs = self.convs.iter().enumerate();
        let decays = value_heads * if self.per_channel { self.key_dim } else { 1 };
        let a_log = match &*self.a_log.shape {
            [before @ .., _heads, 1] => [before, &[value_heads, 1]].concat(),
            [before @ .., _heads] => [before, &[value_heads]].concat(),
            [] => Vec::new(),
        };
        Mixer::GatedDelta(Self {
            inputs: self.inputs.sized([keys, values, value_heads, decays], to.hidden),
            convs: convs.map(|(i, conv)| conv.sized(channels(i))).collect(),
            beta_scale: self.beta_scale,
            per_channel: self.per_channel,
            a_log: self.a_log.sized(a_log),
            dt_bias: self.dt_bias.sized([decays]),
            key_heads,
            value_heads,
            key_dim: self.key_dim,
            value_dim: self.value_dim,
            norm: self.norm.clone(),
            gate_activation: self.gate_activation,
            out_proj: self.out_proj.sized(to.hidden, values),
        })
    }
}
