"""`mamba`: the selective state space of "Mamba" (Gu and Dao, 2023), a rate of decay for each channel and state."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch.nn.functional import silu, softplus

from .conv import causal_conv, conv_shapes
from .weights import linear_shapes


@dataclass
class Mamba:
    state_size: int
    conv_kernel: int = 4
    expand: int = 2
    dt_rank: Optional[int] = None
    conv_bias: bool = True
    bias: bool = False

    def rank(self, hidden):
        return self.dt_rank if self.dt_rank is not None else -(-hidden // 16)

    def shapes(self, hidden):
        inner, rank = self.expand * hidden, self.rank(hidden)
        return {
            **linear_shapes("in_proj", 2 * inner, hidden, self.bias),
            **conv_shapes("conv1d", inner, self.conv_kernel, self.conv_bias),
            "x_proj.weight": (rank + 2 * self.state_size, inner),
            **linear_shapes("dt_proj", inner, rank, True),
            "A_log": (inner, self.state_size),
            "D": (inner,),
            **linear_shapes("out_proj", hidden, inner, self.bias),
        }

    def forward(self, w, u, eps):
        x, z = w.linear("in_proj", u).chunk(2, dim=-1)
        x = silu(causal_conv(w, "conv1d", x))
        dt, b, c = w.linear("x_proj", x).split([self.rank(u.shape[1]), self.state_size, self.state_size], dim=-1)
        dt = softplus(w.linear("dt_proj", dt))  # [T, inner]
        a = -torch.exp(w["A_log"])
        state = u.new_zeros(a.shape)  # [inner, state]
        y = torch.empty_like(x)
        for t in range(len(u)):
            state = torch.exp(dt[t, :, None] * a) * state + (dt[t] * x[t])[:, None] * b[t]
            y[t] = state @ c[t] + w["D"] * x[t]
        return w.linear("out_proj", y * silu(z))
