"""`attention`: softmax attention, and the projections that every kind of attention has."""

from dataclasses import dataclass
from typing import Optional

import torch

from .positions import rotate
from .weights import linear_shapes


@dataclass
class Heads:
    """The fields and tensors that all kinds of attention share."""

    num_heads: int
    head_dim: int
    num_kv_heads: Optional[int] = None
    rope_theta: Optional[float] = None
    qk_norm: bool = False
    bias: bool = False

    def __post_init__(self):
        if self.num_kv_heads is None:
            self.num_kv_heads = self.num_heads

    def shapes(self, hidden):
        heads, kv_heads = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes = {}
        for name, width in dict(q=heads, k=kv_heads, v=kv_heads).items():
            shapes.update(linear_shapes(name, width, hidden, self.bias))
        shapes.update(linear_shapes("o", hidden, heads, self.bias))
        if self.qk_norm:
            shapes.update({"q_norm.weight": (self.head_dim,), "k_norm.weight": (self.head_dim,)})
        return shapes

    def kv_head(self, head):
        """The kv head that a query head uses."""
        return head * self.num_kv_heads // self.num_heads

    def project(self, w, u, eps):
        """Queries `[T, heads, head_dim]`, keys and values `[T, kv_heads, head_dim]`, normed and rotated."""
        q, k, v = (w.linear(name, u).unflatten(-1, (-1, self.head_dim)) for name in "qkv")
        if self.qk_norm:
            q, k = w.rms("q_norm", q, eps), w.rms("k_norm", k, eps)
        return rotate(q, self.rope_theta), rotate(k, self.rope_theta), v

    def output(self, w, heads):
        """`o` of what the heads give, `[T, heads, head_dim]`."""
        return w.linear("o", heads.flatten(1))


@dataclass
class Attention(Heads):
    window: int = 0
    causal: bool = True

    def visible(self, t, length):
        """The positions that `t` sees."""
        if not self.causal:
            return list(range(length))
        return [j for j in range(t + 1) if not self.window or j > t - self.window]

    def forward(self, w, u, eps):
        q, k, v = self.project(w, u, eps)
        out = torch.empty_like(q)
        for t in range(len(u)):
            seen = self.visible(t, len(u))
            for head in range(self.num_heads):
                kv = self.kv_head(head)
                out[t, head] = attend(q[t, head], k[seen, kv], v[seen, kv])
        return self.output(w, out)


def attend(q, keys, values, bias=0.0):
    """Softmax attention of one query: `[head_dim]` from keys and values `[n, head_dim]`; `bias` `[n]` is added to the logits."""
    return torch.softmax(keys @ q / q.shape[-1] ** 0.5 + bias, dim=-1) @ values
