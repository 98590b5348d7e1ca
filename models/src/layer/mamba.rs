//! Mamba: a selective state space with a state per channel.

use crate::spec::{Conv, Linear, TensorSpec};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Mamba (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3).
///
/// With `[x | z] = in_proj(u)`, `x = silu(conv(x))`, `[r | B | C] = x_proj(x)`,
/// `dt = softplus(dt_proj(r))`, `A = -exp(a_log)`:
/// `h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c]`, `y[c] = sum_n C[n] h[c,n] + d[c] x[c]`,
/// output `out_proj(y * silu(z))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba {
    /// `[2 * inner, hidden]`.
    pub in_proj: Linear,
    /// Over `inner` channels.
    pub conv: Conv,
    /// `[dt_rank + 2 * state, inner]`.
    pub x_proj: Linear,
    /// `[inner, dt_rank]`, with bias.
    pub dt_proj: Linear,
    /// `[inner, state]`.
    pub a_log: TensorSpec,
    /// `[inner]`.
    pub d: TensorSpec,
    /// `[hidden, inner]`.
    pub out_proj: Linear,
    /// Channels.
    pub inner: usize,
    /// State per channel.
    pub state: usize,
    /// Rank of the step-size projection.
    pub dt_rank: usize,
    /// FalconMamba: epsilon of weightless RMS norms of `r`, `B` and `C`, each normed separately.
    pub bcdt_norm_eps: Option<f32>,
}

describe!(Mamba, |parts| Mamba {
    in_proj,
    conv,
    x_proj,
    dt_proj,
    a_log,
    d,
    out_proj,
    inner: _,
    state: _,
    dt_rank: _,
    bcdt_norm_eps: _,
} => {
    parts.linear(Role::In, in_proj);
    parts.conv(conv);
    parts.linear(Role::StateIn, x_proj);
    parts.linear(Role::TimeStep, dt_proj);
    parts.vector(Role::Decay, a_log);
    parts.vector(Role::Skip, d);
    parts.linear(Role::Out, out_proj);
});

impl Layer for Mamba {
    fn kind(&self) -> &'static str {
        "mamba"
    }

    fn title(&self) -> &'static str {
        "Mamba"
    }

    fn components(&self) -> &'static [&'static str] {
        &["mamba"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let norm = if self.bcdt_norm_eps.is_some() { ", B C dt normed" } else { "" };
        let (inner, state, rank) = (self.inner, self.state, self.dt_rank);
        format!("{inner} channels, state {state}, dt rank {rank}, conv {}{norm}", self.conv.kernel)
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let (inner, dt_rank) = (self.inner.min(to.width), self.dt_rank.min(to.width));
        Mixer::Mamba(Self {
            in_proj: self.in_proj.sized(2 * inner, to.hidden),
            conv: self.conv.sized(inner),
            x_proj: self.x_proj.sized(dt_rank + 2 * self.state, inner),
            dt_proj: self.dt_proj.sized(inner, dt_rank),
            a_log: self.a_log.sized([inner, self.state]),
            d: self.d.sized([inner]),
            out_proj: self.out_proj.sized(to.hidden, inner),
            inner,
            state: self.state,
            dt_rank,
            bcdt_norm_eps: self.bcdt_norm_eps,
        })
    }
}
