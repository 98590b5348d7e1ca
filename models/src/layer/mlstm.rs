//! mLSTM: a matrix memory with exponential gates.

use crate::spec::{Linear, Norm};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// mLSTM with exponential gating and a matrix memory (Beck et al., "xLSTM", 2024, section 2.3;
/// in the form of "xLSTM 7B", 2025).
///
/// With `i = cap(igate(u))`, `f = logsigmoid(cap(fgate(u)))`, `m' = max(f + m, i)`:
/// `C = e^(f+m-m') C + e^(i-m') k v^T`, `n = e^(f+m-m') n + e^(i-m') k`,
/// `h = (q / sqrt(qk_head_dim))^T C / (max(|q . n| / sqrt(qk_head_dim), e^-m') + eps)`; then a layer norm of
/// each head, `sigmoid(ogate(u)) *`, and `out_proj`.
#[derive(Clone, Debug, PartialEq)]
pub struct MLstm {
    /// `[heads * qk_head_dim, hidden]`.
    pub q: Linear,
    /// `[heads * qk_head_dim, hidden]`.
    pub k: Linear,
    /// `[heads * v_head_dim, hidden]`.
    pub v: Linear,
    /// `[heads * v_head_dim, hidden]`.
    pub ogate: Linear,
    /// `[heads, hidden]`.
    pub igate: Linear,
    /// `[heads, hidden]`.
    pub fgate: Linear,
    /// `[hidden, heads * v_head_dim]`.
    pub out_proj: Linear,
    /// Heads.
    pub heads: usize,
    /// Width of queries and keys of a head.
    pub qk_head_dim: usize,
    /// Width of values of a head.
    pub v_head_dim: usize,
    /// `cap * tanh(x / cap)`, applied to both gates.
    pub gate_soft_cap: Option<f32>,
    /// Added to the denominator.
    pub eps: f32,
    /// Weight (and bias) `[heads * v_head_dim]` of the layer norm (with mean subtracted) of each
    /// head.
    pub head_norm: Norm,
}

describe!(MLstm, |parts| MLstm {
    q,
    k,
    v,
    ogate,
    igate,
    fgate,
    out_proj,
    head_norm,
    heads: _,
    qk_head_dim: _,
    v_head_dim: _,
    gate_soft_cap: _,
    eps: _,
} => {
    parts.linear(Role::Query, q);
    parts.linear(Role::Key, k);
    parts.linear(Role::Value, v);
    parts.linear(Role::OutputGate, ogate);
    parts.linear(Role::CellGate, igate);
    parts.linear(Role::CellGate, fgate);
    parts.linear(Role::Out, out_proj);
    parts.norm(head_norm);
});

impl Layer for MLstm {
    fn kind(&self) -> &'static str {
        "mlstm"
    }

    fn title(&self) -> &'static str {
        "mLSTM"
    }

    fn components(&self) -> &'static [&'static str] {
        &["mlstm"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let heads = super::plural(self.heads, "head");
        format!("{heads}, queries of {}, values of {}", self.qk_head_dim, self.v_head_dim)
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let heads = self.heads.min(to.heads);
        let (keys, values) = (heads * self.qk_head_dim, heads * self.v_head_dim);
        Mixer::MLstm(Self {
            q: self.q.sized(keys, to.hidden),
            k: self.k.sized(keys, to.hidden),
            v: self.v.sized(values, to.hidden),
            ogate: self.ogate.sized(values, to.hidden),
            igate: self.igate.sized(heads, to.hidden),
            fgate: self.fgate.sized(heads, to.hidden),
            out_proj: self.out_proj.sized(to.hidden, values),
            heads,
            qk_head_dim: self.qk_head_dim,
            v_head_dim: self.v_head_dim,
            gate_soft_cap: self.gate_soft_cap,
            eps: self.eps,
            head_norm: self.head_norm.sized(values),
        })
    }
}
