"""`mlp`: a feed-forward block."""

from dataclasses import dataclass

import torch
from torch.nn.functional import gelu, silu

from .weights import linear_shapes

ACTIVATIONS = {
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x) ** 2,
}


@dataclass
class Mlp:
    intermediate_size: int
    activation: str = "silu"
    gated: bool = True
    bias: bool = False

    def shapes(self, hidden):
        inner = self.intermediate_size
        gate = linear_shapes("gate", inner, hidden, self.bias) if self.gated else {}
        return {**gate, **linear_shapes("up", inner, hidden, self.bias), **linear_shapes("down", hidden, inner, self.bias)}

    def forward(self, w, u, eps):
        act = ACTIVATIONS[self.activation]
        inner = act(w.linear("gate", u)) * w.linear("up", u) if self.gated else act(w.linear("up", u))
        return w.linear("down", inner)
