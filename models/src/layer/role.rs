//! What a tensor does in its layer.

/// What a tensor does in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The table of the token embedding; where head and embedding are tied, both.
    Embedding,
    /// From the residual stream to logits.
    Head,
    /// Queries of attention or mLSTM.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// The input projection of a Mamba layer.
    In,
    /// Mamba's projection to step sizes, B and C.
    StateIn,
    /// Mamba's step-size projection, and the one to the decays of Kimi Delta Attention.
    TimeStep,
    /// The output gate of mLSTM or of the gated delta rule.
    OutputGate,
    /// The input and forget gates of mLSTM, and what the gated delta rule writes and how fast it forgets: a row per head.
    CellGate,
    /// From the heads or channels of attention or a recurrent layer back to the residual stream.
    Out,
    /// Which experts see a token.
    Router,
    /// The gate of a feed-forward network.
    Gate,
    /// Its other input projection.
    Up,
    /// From the feed-forward network back to the residual stream.
    Down,
    /// The weight of a norm.
    Norm,
    /// What a projection, a norm or a convolution adds.
    Bias,
    /// The taps of a convolution over time.
    Conv,
    /// How fast a state decays.
    Decay,
    /// What passes a recurrence by.
    Skip,
    /// What is added to step sizes before their softplus.
    TimeBias,
}

/// How a quantizer treats a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// It may have fewer bits.
    Free,
    /// It decides rather than carries: a small matrix that stays in full precision unless a recipe names it.
    Guarded,
    /// It keeps its type and bytes.
    Full,
}

impl Role {
    /// A word for tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::In => "in",
            Self::StateIn => "state in",
            Self::TimeStep => "time step",
            Self::OutputGate => "output gate",
            Self::CellGate => "cell gate",
            Self::Out => "out",
            Self::Router => "router",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Conv => "conv",
            Self::Decay => "decay",
            Self::Skip => "skip",
            Self::TimeBias => "time bias",
        }
    }

    /// What quantizing may do to it.
    pub fn precision(self) -> Precision {
        match self {
            Self::Embedding
            | Self::Head
            | Self::Query
            | Self::Key
            | Self::Value
            | Self::In
            | Self::StateIn
            | Self::TimeStep
            | Self::OutputGate
            | Self::Out
            | Self::Gate
            | Self::Up
            | Self::Down => Precision::Free,
            Self::CellGate | Self::Router => Precision::Guarded,
            Self::Norm | Self::Bias | Self::Conv | Self::Decay | Self::Skip | Self::TimeBias => {
                Precision::Full
            }
        }
    }

    /// Whether it decides rather than carries: small matrices that stay in full precision unless a recipe names them.
    pub fn is_gate(self) -> bool {
        self.precision() == Precision::Guarded
    }

    /// What the elements of such a tensor lie around in trained models: made-up layers have it so.
    pub fn typical(self) -> f32 {
        match self {
            Self::Norm => 1.0,
            Self::Conv => 0.3,
            Self::Decay | Self::Skip => 0.5,
            Self::TimeBias => -1.0,
            Self::Bias
            | Self::Embedding
            | Self::Head
            | Self::Query
            | Self::Key
            | Self::Value
            | Self::In
            | Self::StateIn
            | Self::TimeStep
            | Self::OutputGate
            | Self::CellGate
            | Self::Out
            | Self::Router
            | Self::Gate
            | Self::Up
            | Self::Down => 0.0,
        }
    }
}
