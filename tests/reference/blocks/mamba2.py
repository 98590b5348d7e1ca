"""`mamba2`: the state space of "Transformers are SSMs" (Dao and Gu, 2024), a rate of decay for each head."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch.nn.functional import silu, softplus

from .conv import causal_conv, conv_shapes
from .weights import linear_shapes, rms


@dataclass
class Mamba2:
    state_size: int
    num_heads: int
    head_dim: int
    n_groups: int = 1
    conv_kernel: int = 4
    conv_bias: bool = True
    bias: bool = False
    time_step_limit: Optional[list] = None
    gate: str = "norm"

    def shapes(self, hidden):
        inner = self.num_heads * self.head_dim
        mixed = inner + 2 * self.n_groups * self.state_size
        return {
            **linear_shapes("in_proj", inner + mixed + self.num_heads, hidden, self.bias),
            **conv_shapes("conv1d", mixed, self.conv_kernel, self.conv_bias),
            "A_log": (self.num_heads,),
            "D": (self.num_heads,),
            "dt_bias": (self.num_heads,),
            **({"gate_norm.weight": (inner,)} if self.gate == "norm" else {}),
            **linear_shapes("out_proj", hidden, inner, self.bias),
        }

    def forward(self, w, u, eps):
        inner, groups = self.num_heads * self.head_dim, self.n_groups * self.state_size
        z, xbc, dt = w.linear("in_proj", u).split([inner, inner + 2 * groups, self.num_heads], dim=-1)
        x, b, c = silu(causal_conv(w, "conv1d", xbc)).split([inner, groups, groups], dim=-1)
        x = x.unflatten(-1, (self.num_heads, self.head_dim))
        # B and C of the group of each head: [T, heads, state].
        b, c = (m.unflatten(-1, (self.n_groups, -1)).repeat_interleave(self.num_heads // self.n_groups, 1) for m in (b, c))
        dt = softplus(dt + w["dt_bias"])  # [T, heads]
        if self.time_step_limit is not None:
            dt = dt.clamp(*self.time_step_limit)
        a = -torch.exp(w["A_log"])
        state = u.new_zeros(self.num_heads, self.head_dim, self.state_size)
        y = torch.empty_like(x)
        for t in range(len(u)):
            state = torch.exp(dt[t] * a)[:, None, None] * state + (dt[t, :, None] * x[t])[:, :, None] * b[t, :, None]
            y[t] = (state * c[t, :, None]).sum(-1) + w["D"][:, None] * x[t]
        y = y.flatten(1) * silu(z)
        if self.gate == "norm":
            y = rms(y.unflatten(-1, (self.n_groups, -1)), eps).flatten(1) * w["gate_norm.weight"]
        return w.linear("out_proj", y)
