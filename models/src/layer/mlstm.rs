//! mLSTM: a matrix memory with exponential gates.

use std::fmt;

use crate::spec::{Conv, Linear, Norm};

use super::{ForgetGate, Layer, Mixer, Module, QkNorm, Role, Rope, Section, Small};

/// mLSTM with exponential gating and a matrix memory (Beck et al., "xLSTM", 2024, section 2.3;
/// in the form of "xLSTM 7B", 2025).
///
/// With `i = cap(igate(u))`, `f = logsigmoid(cap(fgate(u)))`, `m' = max(f + m, i)`:
/// `C = e^(f+m-m') C + e^(i-m') k v^T`, `n = e^(f+m-m') n + e^(i-m') k`,
/// `h = (q / sqrt(qk_head_dim))^T C / (max(|q . n| / sqrt(qk_head_dim), e^-m') + eps)`; then a norm of
/// each head, `sigmoid(ogate(u)) *`, and `out_proj`.
///
/// With `inner`, `[a | b] = in_proj(u)`, the values are of `a`, all else is of `c = silu(conv(a))` or of `a` itself, and what `out_proj`
/// reads is multiplied by `silu(b)` (the block of "xLSTM", 2024, figure 11). `inputs` is the width of what the projections read: `hidden`,
/// or that of `a`.
#[derive(Clone, PartialEq)]
pub struct MLstm {
    /// `[heads * qk_head_dim, inputs]`.
    pub q: Linear,
    /// `[heads * qk_head_dim, inputs]`.
    pub k: Linear,
    /// `[heads * v_head_dim, inputs]`.
    pub v: Linear,
    /// `[heads * v_head_dim, inputs]`.
    pub ogate: Linear,
    /// `[heads, inputs]`.
    pub igate: Linear,
    /// `[heads, inputs]`.
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
    /// Weight (and bias) `[heads * v_head_dim]` of the norm of each head, if there is one.
    pub head_norm: Option<Norm>,
    /// Whether that norm subtracts the mean: a layer norm, else RMS.
    pub centred: bool,
    /// What the past counts: `f` is `logsigmoid` of the gate or the gate itself.
    pub forget_gate: ForgetGate,
    /// RMS norm of each head of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// A width of its own for the cell.
    pub inner: Option<Box<MLstmInner>>,
}

/// The projection to a width of the cell's own, with a gate beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct MLstmInner {
    /// `[2 * heads * v_head_dim, hidden]`: `a`, then `b`.
    pub in_proj: Linear,
    /// Over the channels of `a`, followed by SiLU; `None` where `c = a`.
    pub conv: Option<Conv>,
}

impl fmt::Debug for MLstm {
    // Saved sessions identify a model by this text, so it omits what most models don't have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("MLstm");
        fields.field("q", &self.q).field("k", &self.k).field("v", &self.v);
        fields.field("ogate", &self.ogate);
        fields.field("igate", &self.igate).field("fgate", &self.fgate);
        fields.field("out_proj", &self.out_proj).field("heads", &self.heads);
        fields.field("qk_head_dim", &self.qk_head_dim).field("v_head_dim", &self.v_head_dim);
        fields.field("gate_soft_cap", &self.gate_soft_cap).field("eps", &self.eps);
        if let Some(norm) = &self.head_norm {
            fields.field("head_norm", norm);
        }
        if !self.centred {
            fields.field("centred", &self.centred);
        }
        if self.forget_gate != ForgetGate::Sigmoid {
            fields.field("forget_gate", &self.forget_gate);
        }
        if let Some(norm) = &self.qk_norm {
            fields.field("qk_norm", norm);
        }
        if let Some(inner) = &self.inner {
            fields.field("inner", inner);
        }
        fields.finish()
    }
}

/// Sizes of an mLSTM layer with a width of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MLstmSizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Heads.
    pub heads: usize,
    /// Width of queries and keys of a head.
    pub qk_head_dim: usize,
    /// Width of values of a head; the inner width is that of all heads.
    pub v_head_dim: usize,
    /// Taps of the convolution; 0 for none.
    pub conv_kernel: usize,
}

impl MLstm {
    /// The first column of the values where queries, keys and values are side by side.
    pub fn values_at(&self) -> usize {
        2 * self.heads * self.qk_head_dim
    }

    /// The layer with a width of its own: tensors `PREFIX.in_proj`, `conv1d`, `q`, `k`, `v`, `igate`, `fgate`, `ogate`, `q_norm`, `k_norm`,
    /// `head_norm` if `normed` (an RMS norm) and `out_proj`. The convolution and the gates have biases.
    pub fn with_inner(
        prefix: &str,
        sizes: MLstmSizes,
        forget_gate: ForgetGate,
        normed: bool,
        norm_eps: f32,
    ) -> Self {
        let MLstmSizes { hidden, heads, qk_head_dim, v_head_dim, conv_kernel } = sizes;
        let (inner, keys) = (heads * v_head_dim, heads * qk_head_dim);
        let name = |name: &str| format!("{prefix}.{name}");
        let linear = |part: &str, rows, bias| Linear::new(&name(part), rows, inner, bias);
        let head_norm = || Norm::new(&name("head_norm"), inner, norm_eps);
        let conv = || Conv::new(&name("conv1d"), inner, conv_kernel, true);
        Self {
            q: linear("q", keys, false),
            k: linear("k", keys, false),
            v: linear("v", inner, false),
            ogate: linear("ogate", inner, true),
            igate: linear("igate", heads, true),
            fgate: linear("fgate", heads, true),
            out_proj: Linear::new(&name("out_proj"), hidden, inner, false),
            heads,
            qk_head_dim,
            v_head_dim,
            gate_soft_cap: None,
            eps: 1e-6,
            head_norm: normed.then(head_norm),
            centred: false,
            forget_gate,
            qk_norm: Some(QkNorm::of_heads(prefix, qk_head_dim, norm_eps)),
            inner: Some(Box::new(MLstmInner {
                in_proj: Linear::new(&name("in_proj"), 2 * inner, hidden, false),
                conv: (conv_kernel > 0).then(conv),
            })),
        }
    }
}

describe!(MLstm, |parts| MLstm {
    inner,
    q,
    k,
    v,
    ogate,
    igate,
    fgate,
    out_proj,
    head_norm,
    qk_norm,
    heads: _,
    qk_head_dim: _,
    v_head_dim: _,
    gate_soft_cap: _,
    eps: _,
    centred: _,
    forget_gate: _,
} => {
    if let Some(inner) = inner {
        parts.nested(inner);
    }
    parts.linear(Role::Query, q);
    parts.linear(Role::Key, k);
    parts.linear(Role::Value, v);
    parts.linear(Role::OutputGate, ogate);
    parts.linear(Role::CellGate, igate);
    parts.linear(Role::CellGate, fgate);
    parts.linear(Role::Out, out_proj);
    if let Some(QkNorm { q, k, per_head: _ }) = qk_norm {
        parts.norm(q);
        parts.norm(k);
    }
    if let Some(norm) = head_norm {
        parts.norm(norm);
    }
});

describe!(MLstmInner, |parts| MLstmInner { in_proj, conv } => {
    parts.linear(Role::In, in_proj);
    if let Some(conv) = conv {
        parts.conv(conv);
    }
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
        let dims =
            format!("{heads}, queries of {}, values of {}", self.qk_head_dim, self.v_head_dim);
        match self.inner.as_ref().and_then(|inner| inner.conv.as_ref()) {
            Some(conv) => format!("{dims}, conv {}", conv.kernel),
            None => dims,
        }
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        // Enough heads for a row of projections of the inner width to be whole groups of any quantized format.
        let least = match self.inner {
            Some(_) => (to.width / 2).div_ceil(self.v_head_dim.max(1)).max(to.heads),
            None => to.heads,
        };
        let heads = self.heads.min(least);
        let (keys, values) = (heads * self.qk_head_dim, heads * self.v_head_dim);
        let inputs = if self.inner.is_some() { values } else { to.hidden };
        let inner = self.inner.as_deref().map(|MLstmInner { in_proj, conv }| {
            let in_proj = in_proj.sized(2 * values, to.hidden);
            Box::new(MLstmInner { in_proj, conv: conv.as_ref().map(|conv| conv.sized(values)) })
        });
        Mixer::MLstm(Self {
            q: self.q.sized(keys, inputs),
            k: self.k.sized(keys, inputs),
            v: self.v.sized(values, inputs),
            ogate: self.ogate.sized(values, inputs),
            igate: self.igate.sized(heads, inputs),
            fgate: self.fgate.sized(heads, inputs),
            out_proj: self.out_proj.sized(to.hidden, values),
            heads,
            qk_head_dim: self.qk_head_dim,
            v_head_dim: self.v_head_dim,
            gate_soft_cap: self.gate_soft_cap,
            eps: self.eps,
            head_norm: self.head_norm.as_ref().map(|norm| norm.sized(values)),
            centred: self.centred,
            forget_gate: self.forget_gate,
            qk_norm: self.qk_norm.clone(),
            inner,
        })
    }
}
