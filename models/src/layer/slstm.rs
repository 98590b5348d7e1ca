//! sLSTM: a scalar memory for each channel, whose gates read what the heads put out before.

use crate::spec::{Linear, Norm, TensorSpec};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// sLSTM with a memory for each channel and memory mixing within heads (Beck et al., "xLSTM", 2024, arXiv:2405.04517, section 2.2, with
/// the stabilizer of eq. 15 to 17).
///
/// With `a = in_proj(u)` and `[i | f | z | o] = gates(a) + R h`, head by head: for exponential gates with `lf = log sigmoid(f)` or `f`,
/// `m' = max(lf + m, i)` (`i` at the first token), `c' = e^(lf+m-m') c + e^(i-m') tanh(z)`, `n' = e^(lf+m-m') n + e^(i-m')`,
/// `s = c' / n'`; for sigmoid gates `c' = sigmoid(f) c + sigmoid(i) tanh(z)`, `s = c'`. Then `h = sigmoid(o) * norm(s)`, the RMS norm of
/// each head, and `out_proj(h)`.
#[derive(Clone, Debug, PartialEq)]
pub struct SLstm {
    /// `[heads * head_dim, hidden]`.
    pub in_proj: Linear,
    /// `[4 * heads * head_dim, heads * head_dim]`: i, f, z, o, each ordered by head.
    pub gates: Linear,
    /// `R`, `[heads, 4, head_dim, head_dim]`: for each head and gate a matrix on the head's `h`. `None` without memory mixing. It is a
    /// stack of small matrices that every token multiplies in turn, so it keeps its type when a model is quantized.
    pub recurrent: Option<TensorSpec>,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// How gates weigh the past and the new.
    pub gating: CellGating,
    /// Weight `[heads * head_dim]` and epsilon of the RMS norm of each head.
    pub cell_norm: Norm,
    /// `[hidden, heads * head_dim]`.
    pub out_proj: Linear,
}

/// How the gates of a cell weigh the past and the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CellGating {
    /// An exponential input gate, and a cell that is divided by the sum of its weights.
    Exponential(ForgetGate),
    /// Both gates through a sigmoid, as in an LSTM.
    Sigmoid,
}

/// What a forget gate means beside an exponential input gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForgetGate {
    /// The past counts `sigmoid(f)`.
    #[default]
    Sigmoid,
    /// The past counts `e^f`.
    Exponential,
}

impl SLstm {
    /// The layer with tensors `PREFIX.in_proj`, `PREFIX.gates`, `PREFIX.recurrent.weight` if `mixes`, `PREFIX.cell_norm` and
    /// `PREFIX.out_proj`, of which `gates` alone has a bias.
    pub fn new(
        prefix: &str,
        hidden: usize,
        [heads, head_dim]: [usize; 2],
        gating: CellGating,
        mixes: bool,
        norm_eps: f32,
    ) -> Self {
        let (inner, name) = (heads * head_dim, |name: &str| format!("{prefix}.{name}"));
        let recurrent =
            || TensorSpec::new(name("recurrent.weight"), [heads, 4, head_dim, head_dim]);
        Self {
            in_proj: Linear::new(&name("in_proj"), inner, hidden, false),
            gates: Linear::new(&name("gates"), 4 * inner, inner, true),
            recurrent: mixes.then(recurrent),
            heads,
            head_dim,
            gating,
            cell_norm: Norm::new(&name("cell_norm"), inner, norm_eps),
            out_proj: Linear::new(&name("out_proj"), hidden, inner, false),
        }
    }
}

describe!(SLstm, |parts| SLstm {
    in_proj,
    gates,
    recurrent,
    cell_norm,
    out_proj,
    heads: _,
    head_dim: _,
    gating: _,
} => {
    parts.linear(Role::In, in_proj);
    parts.linear(Role::StateIn, gates);
    if let Some(recurrent) = recurrent {
        parts.vector(Role::Recurrent, recurrent);
    }
    parts.norm(cell_norm);
    parts.linear(Role::Out, out_proj);
});

impl Layer for SLstm {
    fn kind(&self) -> &'static str {
        "slstm"
    }

    fn title(&self) -> &'static str {
        "sLSTM"
    }

    fn components(&self) -> &'static [&'static str] {
        &["slstm"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let gating = match self.gating {
            CellGating::Exponential(ForgetGate::Sigmoid) => "exponential input gates",
            CellGating::Exponential(ForgetGate::Exponential) => "exponential gates",
            CellGating::Sigmoid => "sigmoid gates",
        };
        let mixing = if self.recurrent.is_some() { "" } else { ", no memory mixing" };
        let heads = super::plural(self.heads, "head");
        format!("{heads} of {}, {gating}{mixing}", self.head_dim)
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let dim = self.head_dim;
        // Enough heads for a row of the projections to be whole groups of any quantized format.
        let least = (to.width / 2).div_ceil(dim.max(1)).max(to.heads);
        let heads = self.heads.min(least);
        let inner = heads * dim;
        Mixer::SLstm(Self {
            in_proj: self.in_proj.sized(inner, to.hidden),
            gates: self.gates.sized(4 * inner, inner),
            recurrent: self.recurrent.as_ref().map(|all| all.sized([heads, 4, dim, dim])),
            heads,
            head_dim: dim,
            gating: self.gating,
            cell_norm: self.cell_norm.sized(inner),
            out_proj: self.out_proj.sized(to.hidden, inner),
        })
    }
}
