//! What each matrix is in its model: which are gates, which write to the residual stream.

use kinglet_models::{Dense, Matrix, Mixer, ModelSpec};

/// What a matrix does in its model.
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
    /// Mamba's step-size projection.
    TimeStep,
    /// The output gate of mLSTM.
    OutputGate,
    /// The input and forget gates of mLSTM: a row per head, through an exponential.
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
        }
    }

    /// Whether it decides rather than carries: small matrices that stay in full precision unless a recipe names them.
    pub fn is_gate(self) -> bool {
        matches!(self, Self::Router | Self::CellGate)
    }
}

/// A matrix of a model in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) role: Role,
    pub(super) layer: Option<usize>,
    pub(super) matrix: &'a Matrix,
}

/// Every matrix of `spec` in order of use. Specs of one model in two layouts give the same matrices in the same order.
pub(super) fn matrices(spec: &ModelSpec) -> Vec<Placed<'_>> {
    let mut all =
        vec![Placed { role: Role::Embedding, layer: None, matrix: &spec.embedding.table }];
    for block in &spec.blocks {
        let mut add = |role, matrix| all.push(Placed { role, layer: Some(block.layer), matrix });
        for branch in &block.branches {
            mixer(&branch.mixer, &mut add);
        }
    }
    all.push(Placed { role: Role::Head, layer: None, matrix: &spec.head.linear.weight });
    all
}

fn mixer<'a>(mixer: &'a Mixer, add: &mut impl FnMut(Role, &'a Matrix)) {
    match mixer {
        Mixer::Attention(a) => {
            add(Role::Query, &a.q.weight);
            add(Role::Key, &a.k.weight);
            add(Role::Value, &a.v.weight);
            add(Role::Out, &a.o.weight);
        }
        Mixer::Mamba(m) => {
            add(Role::In, &m.in_proj.weight);
            add(Role::StateIn, &m.x_proj.weight);
            add(Role::TimeStep, &m.dt_proj.weight);
            add(Role::Out, &m.out_proj.weight);
        }
        Mixer::Mamba2(m) => {
            add(Role::In, &m.in_proj.weight);
            add(Role::Out, &m.out_proj.weight);
        }
        Mixer::MLstm(m) => {
            add(Role::Query, &m.q.weight);
            add(Role::Key, &m.k.weight);
            add(Role::Value, &m.v.weight);
            add(Role::OutputGate, &m.ogate.weight);
            add(Role::CellGate, &m.igate.weight);
            add(Role::CellGate, &m.fgate.weight);
            add(Role::Out, &m.out_proj.weight);
        }
        Mixer::Dense(d) => dense(d, add),
        Mixer::Moe(m) => {
            add(Role::Router, &m.router.weight);
            m.experts.iter().chain(&m.shared).for_each(|expert| dense(expert, add));
        }
    }
}

fn dense<'a>(dense: &'a Dense, add: &mut impl FnMut(Role, &'a Matrix)) {
    add(Role::Gate, &dense.gate.weight);
    add(Role::Up, &dense.up.weight);
    add(Role::Down, &dense.down.weight);
}
