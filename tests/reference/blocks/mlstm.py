"""`mlstm`: the matrix memory of "xLSTM" (Beck et al., 2024) in its block with an up projection."""

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid, silu

from .conv import causal_conv, conv_shapes
from .weights import linear_shapes, rms


@dataclass
class Mlstm:
    num_heads: int
    qk_head_dim: int
    proj_factor: float = 2
    forget_gate: str = "sigmoid"
    conv_kernel: int = 0
    head_norm: bool = False

    def inner(self, hidden):
        return round(self.proj_factor * hidden)

    def shapes(self, hidden):
        inner, qk = self.inner(hidden), self.num_heads * self.qk_head_dim
        return {
            "in_proj.weight": (2 * inner, hidden),
            **(conv_shapes("conv1d", inner, self.conv_kernel, True) if self.conv_kernel else {}),
            "q.weight": (qk, inner),
            "k.weight": (qk, inner),
            "v.weight": (inner, inner),
            "q_norm.weight": (self.qk_head_dim,),
            "k_norm.weight": (self.qk_head_dim,),
            **linear_shapes("igate", self.num_heads, inner, True),
            **linear_shapes("fgate", self.num_heads, inner, True),
            **linear_shapes("ogate", inner, inner, True),
            **({"head_norm.weight": (inner,)} if self.head_norm else {}),
            "out_proj.weight": (hidden, inner),
        }

    def forward(self, w, u, eps):
        a, b = w.linear("in_proj", u).chunk(2, dim=-1)
        c = silu(causal_conv(w, "conv1d", a)) if self.conv_kernel else a
        q, k, v = (w.linear(name, x).unflatten(-1, (self.num_heads, -1)) for name, x in (("q", c), ("k", c), ("v", a)))
        q, k = w.rms("q_norm", q, eps), w.rms("k_norm", k, eps)
        i, f = w.linear("igate", c), w.linear("fgate", c)  # [T, heads]
        lf = logsigmoid(f) if self.forget_gate == "sigmoid" else f
        scale = self.qk_head_dim ** -0.5
        m = u.new_zeros(self.num_heads)
        cell = u.new_zeros(self.num_heads, q.shape[-1], v.shape[-1])
        n = u.new_zeros(self.num_heads, q.shape[-1])
        h = torch.empty_like(v)
        for t in range(len(u)):
            new = torch.maximum(lf[t] + m, i[t])
            keep, add = torch.exp(lf[t] + m - new)[:, None], torch.exp(i[t] - new)[:, None]
            m = new
            cell = keep[:, :, None] * cell + (add * k[t])[:, :, None] * v[t, :, None]
            n = keep * n + add * k[t]
            read = (q[t, :, :, None] * cell).sum(1) * scale
            weight = torch.maximum((q[t] * n).sum(-1).abs() * scale, torch.exp(-m)) + 1e-6
            h[t] = read / weight[:, None]
        if self.head_norm:
            h = rms(h, eps)
        h = h.flatten(1)
        if self.head_norm:
            h = h * w["head_norm.weight"]
        return w.linear("out_proj", torch.sigmoid(w.linear("ogate", c)) * h * silu(b))
