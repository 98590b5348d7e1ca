//! Mamba-2: a selective state space with a scalar decay per head.

use crate::spec::{Conv, Linear, Norm, TensorSpec};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Mamba-2 (Dao and Gu, "Transformers are SSMs", 2024, sections 5 to 7).
///
/// With `[z | xBC | dt] = in_proj(u)`, `xBC = silu(conv(xBC))`, `dt = clamp(softplus(dt + dt_bias))`,
/// `a = exp(-exp(a_log) dt)`; for head `h` of group `g = h / (heads / groups)`:
/// `S = a S + dt x B^T`, `y = S C + d x`; then the gated norm and `out_proj`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba2 {
    /// `[2 * inner + 2 * groups * state + heads, hidden]`, `inner = heads * head_dim`.
    pub in_proj: Linear,
    /// Factors on the sections z, x, B, C and dt of `in_proj` (Falcon-H1's `ssm_multipliers`).
    pub in_scales: Option<[f32; 5]>,
    /// Over `inner + 2 * groups * state` channels: x, B, C.
    pub conv: Conv,
    /// `[heads]`.
    pub a_log: TensorSpec,
    /// `[heads]`.
    pub d: TensorSpec,
    /// `[heads]`.
    pub dt_bias: TensorSpec,
    /// Bounds on `dt` after the softplus.
    pub dt_limit: (f32, f32),
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Groups that share B and C.
    pub groups: usize,
    /// State per head element.
    pub state: usize,
    /// Between the scan and `out_proj`.
    pub gate: Mamba2Gate,
    /// `[hidden, inner]`.
    pub out_proj: Linear,
}

/// How Mamba-2 applies the gate `z` to its output `y`.
#[derive(Clone, Debug, PartialEq)]
pub enum Mamba2Gate {
    /// `y * silu(z)`, without a norm.
    Silu,
    /// RMS norm of `y * silu(z)` over each of `groups` equal parts, then the weight `[inner]`.
    NormAfter {
        /// Weight `[inner]` and epsilon.
        norm: Norm,
        /// Number of equal parts that are normed separately.
        groups: usize,
    },
    /// RMS norm of `y` over each of `groups` equal parts, times the weight `[inner]`, then times `silu(z)`.
    NormBefore {
        /// Weight `[inner]` and epsilon.
        norm: Norm,
        /// Number of equal parts that are normed separately.
        groups: usize,
    },
}

describe!(Mamba2, |parts| Mamba2 {
    in_proj,
    conv,
    a_log,
    d,
    dt_bias,
    gate,
    out_proj,
    in_scales: _,
    dt_limit: _,
    heads: _,
    head_dim: _,
    groups: _,
    state: _,
} => {
    parts.linear(Role::In, in_proj);
    parts.conv(conv);
    parts.vector(Role::Decay, a_log);
    parts.vector(Role::Skip, d);
    parts.vector(Role::TimeBias, dt_bias);
    match gate {
        Mamba2Gate::Silu => {}
        Mamba2Gate::NormAfter { norm, groups: _ } | Mamba2Gate::NormBefore { norm, groups: _ } => {
            parts.norm(norm);
        }
    }
    parts.linear(Role::Out, out_proj);
});

impl Layer for Mamba2 {
    fn kind(&self) -> &'static str {
        "mamba2"
    }

    fn title(&self) -> &'static str {
        "Mamba-2"
    }

    fn components(&self) -> &'static [&'static str] {
        &["mamba2"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let (heads, groups) =
            (super::plural(self.heads, "head"), super::plural(self.groups, "group"));
        let (dim, state, kernel) = (self.head_dim, self.state, self.conv.kernel);
        format!("{heads} of {dim}, {groups}, state {state}, conv {kernel}")
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let groups = self.groups.min(to.heads);
        let share = (self.heads / self.groups.max(1)).max(1);
        // Enough heads that a row of the output projection is whole groups in any quantized format.
        let least = (to.width / 2).div_ceil((groups * self.head_dim).max(1)).max(to.heads);
        let heads = groups * share.min(least);
        let (inner, state) = (heads * self.head_dim, self.state);
        let channels = inner + 2 * groups * state;
        let parts = |parts: usize| if parts == 1 { 1 } else { groups };
        let gate = match &self.gate {
            Mamba2Gate::Silu => Mamba2Gate::Silu,
            Mamba2Gate::NormAfter { norm, groups } => {
                Mamba2Gate::NormAfter { norm: norm.sized(inner), groups: parts(*groups) }
            }
            Mamba2Gate::NormBefore { norm, groups } => {
                Mamba2Gate::NormBefore { norm: norm.sized(inner), groups: parts(*groups) }
            }
        };
        Mixer::Mamba2(Self {
            in_proj: self.in_proj.sized(inner + channels + heads, to.hidden),
            in_scales: self.in_scales,
            conv: self.conv.sized(channels),
            a_log: self.a_log.sized([heads]),
            d: self.d.sized([heads]),
            dt_bias: self.dt_bias.sized([heads]),
            dt_limit: self.dt_limit,
            heads,
            head_dim: self.head_dim,
            groups,
            state,
            gate,
            out_proj: self.out_proj.sized(to.hidden, inner),
        })
    }
}
