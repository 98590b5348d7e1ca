//! Mamba: a selective state space with a state per channel.

use std::fmt;

use crate::spec::{Conv, Linear, TensorSpec};

use super::{Layer, Mixer, Module, Role, Rope, Section, Small};

/// Mamba (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3).
///
/// With `[x | z] = in_proj(u)`, `x = silu(conv(x))`, `[r | B | C] = x_proj(x)`,
/// `dt = softplus(dt_proj(r))`, `A = -exp(a_log)`:
/// `h[c,n] = exp(dt[c] A[c,n]) h[c,n] + dt[c] B[n] x[c]`, `y[c] = sum_n C[n] h[c,n] + d[c] x[c]`,
/// output `out_proj(y * silu(z))`. The channels may be split into heads, each with an `x_proj` and a `dt_proj` of its own, and so with its
/// own `r`, `B` and `C` (Zamba).
#[derive(Clone, PartialEq)]
pub struct Mamba {
    /// `[2 * inner, hidden]`.
    pub in_proj: Linear,
    /// Whether the rows of `x` and `z` alternate in `in_proj` (Zamba); else those of `x` come first.
    pub alternating: bool,
    /// Over `inner` channels.
    pub conv: Conv,
    /// For each head, `[dt_rank + 2 * state, inner / heads]`.
    pub x_proj: Vec<Linear>,
    /// For each head, `[inner / heads, dt_rank]`, with bias.
    pub dt_proj: Vec<Linear>,
    /// `[inner, state]`, or `[heads, inner / heads, state]`.
    pub a_log: TensorSpec,
    /// `[inner]`, or `[heads, inner / heads]`.
    pub d: TensorSpec,
    /// `[hidden, inner]`.
    pub out_proj: Linear,
    /// Channels.
    pub inner: usize,
    /// State per channel.
    pub state: usize,
    /// Rank of the step-size projection.
    pub dt_rank: usize,
    /// RMS norms of `r`, `B` and `C`, each normed separately.
    pub bcdt_norm: Option<BcdtNorm>,
}

impl fmt::Debug for Mamba {
    // Saved sessions identify a model by this text, so it omits what most models don't have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_proj, alternating, conv, x_proj, dt_proj, a_log, d, out_proj, .. } = self;
        let Self { inner, state, dt_rank, bcdt_norm, .. } = self;
        let mut fields = f.debug_struct("Mamba");
        fields.field("in_proj", in_proj);
        if *alternating {
            fields.field("alternating", alternating);
        }
        fields.field("conv", conv);
        match (&x_proj[..], &dt_proj[..]) {
            ([x_proj], [dt_proj]) => fields.field("x_proj", x_proj).field("dt_proj", dt_proj),
            _ => fields.field("x_proj", x_proj).field("dt_proj", dt_proj),
        };
        fields.field("a_log", a_log).field("d", d).field("out_proj", out_proj);
        fields.field("inner", inner).field("state", state).field("dt_rank", dt_rank);
        fields.field("bcdt_norm", bcdt_norm).finish()
    }
}

/// RMS norms of Mamba's low-rank step sizes, `B` and `C`.
#[derive(Clone, Debug, PartialEq)]
pub struct BcdtNorm {
    /// Added to the mean squares.
    pub eps: f32,
    /// What they multiply by (Jamba); FalconMamba's norms have no weights.
    pub weights: Option<BcdtWeights>,
}

/// Weights of a [`BcdtNorm`].
#[derive(Clone, Debug, PartialEq)]
pub struct BcdtWeights {
    /// `[dt_rank]`.
    pub dt: TensorSpec,
    /// `[state]`.
    pub b: TensorSpec,
    /// `[state]`.
    pub c: TensorSpec,
}

describe!(Mamba, |parts| Mamba {
    in_proj,
    alternating: _,
    conv,
    x_proj,
    dt_proj,
    a_log,
    d,
    out_proj,
    inner: _,
    state: _,
    dt_rank: _,
    bcdt_norm,
} => {
    parts.linear(Role::In, in_proj);
    parts.conv(conv);
    for head in x_proj {
        parts.linear(Role::StateIn, head);
    }
    if let Some(BcdtNorm { weights: Some(BcdtWeights { dt, b, c }), eps: _ }) = bcdt_norm {
        parts.vector(Role::Norm, dt);
        parts.vector(Role::Norm, b);
        parts.vector(Role::Norm, c);
    }
    for head in dt_proj {
        parts.linear(Role::TimeStep, head);
    }
    parts.vector(Role::Decay, a_log);
    parts.vector(Role::Skip, d);
    parts.linear(Role::Out, out_proj);
});

impl Mamba {
    /// Heads, by which step sizes, `B` and `C` differ; 1 nearly everywhere.
    pub fn heads(&self) -> usize {
        self.x_proj.len().max(1)
    }
}

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
        let norm = if self.bcdt_norm.is_some() { ", B C dt normed" } else { "" };
        let (inner, state, rank) = (self.inner, self.state, self.dt_rank);
        let heads = match self.heads() {
            1 => String::new(),
            heads => format!(" in {heads} heads"),
        };
        let kernel = self.conv.kernel;
        format!("{inner} channels{heads}, state {state}, dt rank {rank}, conv {kernel}{norm}")
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let heads = self.heads();
        let width = (self.inner.min(to.width) / heads).max(1);
        let (inner, dt_rank) = (width * heads, self.dt_rank.min(to.width));
        // Of all heads in one dimension, or by head.
        let by_head = |tensor: &TensorSpec, rest: &[usize]| match tensor.shape.len() - rest.len() {
            1 => tensor.sized([&[inner], rest].concat()),
            _ => tensor.sized([&[heads, width], rest].concat()),
        };
        let dt_proj = |head: &Linear| {
            let bias = head.bias.as_ref().map(|bias| by_head(bias, &[]));
            Linear { bias, ..head.sized(width, dt_rank) }
        };
        Mixer::Mamba(Self {
            in_proj: self.in_proj.sized(2 * inner, to.hidden),
            alternating: self.alternating,
            conv: self.conv.sized(inner),
            x_proj: (self.x_proj.iter())
                .map(|head| head.sized(dt_rank + 2 * self.state, width))
                .collect(),
            dt_proj: self.dt_proj.iter().map(dt_proj).collect(),
            a_log: by_head(&self.a_log, &[self.state]),
            d: by_head(&self.d, &[]),
            out_proj: self.out_proj.sized(to.hidden, inner),
            inner,
            state: self.state,
            dt_rank,
            bcdt_norm: self.bcdt_norm.as_ref().map(|norm| BcdtNorm {
                eps: norm.eps,
                weights: norm.weights.as_ref().map(|weights| BcdtWeights {
                    dt: weights.dt.sized([dt_rank]),
                    b: weights.b.sized([self.state]),
                    c: weights.c.sized([self.state]),
                }),
            }),
        })
    }
}
