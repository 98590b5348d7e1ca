//! Attention without a softmax, whose past fades by a fixed factor of each head.

use crate::spec::{Linear, Norm};

use super::{Activation, Layer, Mixer, Module, Role, Rope, Section, Small};

/// Linear attention with a fixed decay for each head: MiniMax's lightning attention (Qin et al., "Lightning Attention-2",
/// arXiv:2401.04658, 2024, section 3.2; MiniMax, "MiniMax-01", arXiv:2501.08313, 2025, section 2.2).
///
/// With `[q | k | v] = act(qkv(u))` for each head and `a = exp(log_decay)`: `S = a S + k v^T`, `y = scale S^T q`; then
/// `out_proj(sigmoid(gate(u)) * norm(y))`, the norm over all heads at once.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearAttention {
    /// `[heads * (2 * key_dim + value_dim), hidden]`: the queries, keys and values of a head side by side.
    pub qkv: Linear,
    /// On queries, keys and values.
    pub activation: Activation,
    /// `[heads * value_dim, hidden]`: the output gate, before its sigmoid.
    pub gate: Linear,
    /// Weight `[heads * value_dim]` and epsilon of the RMS norm over all heads.
    pub norm: Norm,
    /// `[hidden, heads * value_dim]`.
    pub out_proj: Linear,
    /// The logarithm of each head's decay per token, at most 0, `[heads]`.
    pub log_decays: Vec<f32>,
    /// Width of queries and keys of a head.
    pub key_dim: usize,
    /// Width of values of a head.
    pub value_dim: usize,
    /// Factor on the result.
    pub scale: f32,
}

describe!(LinearAttention, |parts| LinearAttention {
    qkv,
    gate,
    norm,
    out_proj,
    activation: _,
    log_decays: _,
    key_dim: _,
    value_dim: _,
    scale: _,
} => {
    parts.linear(Role::In, qkv);
    parts.linear(Role::OutputGate, gate);
    parts.norm(norm);
    parts.linear(Role::Out, out_proj);
});

impl LinearAttention {
    /// Heads.
    pub fn heads(&self) -> usize {
        self.log_decays.len()
    }
}

impl Layer for LinearAttention {
    fn kind(&self) -> &'static str {
        "linear attention"
    }

    fn title(&self) -> &'static str {
        "linear attention"
    }

    fn components(&self) -> &'static [&'static str] {
        &["linear attention"]
    }

    fn section(&self) -> Section {
        Section::of(Module::Own)
    }

    fn sizes(&self) -> String {
        let heads = super::plural(self.heads(), "head");
        let (keys, values) = (self.key_dim, self.value_dim);
        let dims = match keys == values {
            true => format!("{heads} of {keys}"),
            false => format!("{heads}, queries of {keys}, values of {values}"),
        };
        format!("{dims}, {}", self.activation.name())
    }

    fn rope(&self) -> Option<&Rope> {
        None
    }

    fn small(&self, to: &Small) -> Mixer {
        let (keys, values) = (self.key_dim, self.value_dim);
        // Enough heads for a row of the output projection to be whole groups of any quantized format.
        let least = (to.width / 2).div_ceil(values.max(1)).max(to.heads);
        let heads = self.heads().min(least);
        Mixer::LinearAttention(Self {
            qkv: self.qkv.sized(heads * (2 * keys + values), to.hidden),
            activation: self.activation,
            gate: self.gate.sized(heads * values, to.hidden),
            norm: self.norm.sized(heads * values),
            out_proj: self.out_proj.sized(to.hidden, heads * values),
            log_decays: self.log_decays.iter().take(heads).copied().collect(),
            key_dim: keys,
            value_dim: values,
            scale: self.scale,
        })
    }
}
