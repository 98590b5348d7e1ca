"""`slstm`: the scalar memory of "xLSTM" (Beck et al., 2024), with gates that see the output before."""

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid

from .weights import linear_shapes


@dataclass
class Slstm:
    num_heads: int
    proj_factor: float = 1
    gating: str = "exp"
    forget_gate: str = "sigmoid"
    memory_mixing: bool = True

    def inner(self, hidden):
        return round(self.proj_factor * hidden)

    def shapes(self, hidden):
        inner = self.inner(hidden)
        d = inner // self.num_heads
        return {
            "in_proj.weight": (inner, hidden),
            **linear_shapes("gates", 4 * inner, inner, True),
            **({"recurrent.weight": (self.num_heads, 4, d, d)} if self.memory_mixing else {}),
            "cell_norm.weight": (inner,),
            "out_proj.weight": (hidden, inner),
        }

    def forward(self, w, u, eps):
        heads = (self.num_heads, -1)
        fed = w.linear("gates", w.linear("in_proj", u)).unflatten(-1, (4, *heads))  # [T, gate, head, d]
        m = c = n = h = torch.zeros_like(fed[0, 0])  # [head, d]
        out = fed.new_empty(len(u), *h.shape)
        for t in range(len(u)):
            gates = fed[t]
            if self.memory_mixing:
                gates = gates + torch.einsum("hgij,hj->ghi", w["recurrent.weight"], h)
            i, f, z, o = gates
            if self.gating == "exp":
                lf = logsigmoid(f) if self.forget_gate == "sigmoid" else f
                new = torch.maximum(lf + m, i) if t else i
                keep, add = torch.exp(lf + m - new), torch.exp(i - new)
                m = new
                c, n = keep * c + add * torch.tanh(z), keep * n + add
                s = c / n
            else:
                s = c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
            normed = s / torch.sqrt((s * s).mean(-1, keepdim=True) + eps) * w["cell_norm.weight"].unflatten(-1, heads)
            out[t] = h = torch.sigmoid(o) * normed
        return w.linear("out_proj", out.flatten(1))
