//! The role of a tensor in its layer.

/// The role of a tensor in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The embedding table; if head and embedding are tied, both.
    Embedding,
    /// From the residual stream to logits.
    Head,
    /// Queries of attention or mLSTM.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// From the residual stream to the latent of keys and values.
    Latent,
    /// The input projection of a Mamba layer, or of the narrower stream of experts.
    In,
    /// Mamba's projection to step sizes, B and C, and sLSTM's to its gates.
    StateIn,
    /// Mamba's step-size projection, and the one to the decays of Kimi Delta Attention.
    TimeStep,
    /// The output gate of mLSTM, attention or the gated delta rule.
    OutputGate,
    /// The input and forget gates of mLSTM, what the gated delta rule writes and how fast it forgets, and the importance of a token in hybrid attention:
    /// a row per head.
    CellGate,
    /// Output projection of attention, a recurrent layer or the narrower stream of experts, back to the residual stream.
    Out,
    /// Router: selects the experts of a token.
    Router,
    /// How much the expert that sees every token counts: one row, through a sigmoid.
    SharedGate,
    /// The gate of a feed-forward network.
    Gate,
    /// Its other input projection.
    Up,
    /// Output projection of a feed-forward network.
    Down,
    /// Half of a low-rank addition to a projection.
    Adapter,
    /// The weight of a norm.
    Norm,
    /// Bias of a projection, a norm or a convolution.
    Bias,
    /// The taps of a convolution over time.
    Conv,
    /// Matrices of a recurrent network on what it put out before: a stack of small ones.
    Recurrent,
    /// Decay of a state.
    Decay,
    /// Skip connection around a recurrence.
    Skip,
    /// How much each of several forms of attention counts.
    Mix,
    /// Bias added to step sizes before the softplus.
    TimeBias,
}

/// How quantization treats a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// May be quantized.
    Free,
    /// A small matrix that selects rather than carries values; stays in full precision unless a
    /// recipe names it.
    Guarded,
    /// Keeps its type and bytes.
    Full,
}

impl Role {
    /// Name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Latent => "latent",
            Self::In => "in",
            Self::StateIn => "state in",
            Self::TimeStep => "time step",
            Self::OutputGate => "output gate",
            Self::CellGate => "cell gate",
            Self::Out => "out",
            Self::Router => "router",
            Self::SharedGate => "shared gate",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::Down => "down",
            Self::Adapter => "adapter",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Conv => "conv",
            Self::Recurrent => "recurrent",
            Self::Decay => "decay",
            Self::Skip => "skip",
            Self::Mix => "mix",
            Self::TimeBias => "time bias",
        }
    }

    /// How quantization may treat it.
    pub fn precision(self) -> Precision {
        match self {
            Self::Embedding
            | Self::Head
            | Self::Query
            | Self::Key
            | Self::Value
            | Self::Latent
            | Self::In
            | Self::StateIn
            | Self::TimeStep
            | Self::OutputGate
            | Self::Out
            | Self::Gate
            | Self::Up
            | Self::Down
            | Self::Adapter => Precision::Free,
            Self::CellGate | Self::Router | Self::SharedGate => Precision::Guarded,
            Self::Norm
            | Self::Bias
            | Self::Conv
            | Self::Recurrent
            | Self::Decay
            | Self::Skip
            | Self::Mix
            | Self::TimeBias => Precision::Full,
        }
    }

    /// Whether it selects rather than carries values: small matrices that stay in full precision
    /// unless a recipe names them.
    pub fn is_gate(self) -> bool {
        self.precision() == Precision::Guarded
    }

    /// Typical magnitude of its elements in trained models, used for generated layers.
    pub fn typical(self) -> f32 {
        match self {
            Self::Norm => 1.0,
            Self::Conv => 0.3,
            Self::Decay | Self::Skip => 0.5,
            Self::TimeBias => -1.0,
            Self::Bias
            | Self::Recurrent
            | Self::Mix
            | Self::Embedding
            | Self::Head
            | Self::Query
            | Self::Key
            | Self::Value
            | Self::Latent
            | Self::In
            | Self::StateIn
            | Self::TimeStep
            | Self::OutputGate
            | Self::CellGate
            | Self::Out
            | Self::Router
            | Self::SharedGate
            | Self::Gate
            | Self::Up
            | Self::Down
            | Self::Adapter => 0.0,
        }
    }
}
