"""The parts of both models: the chunked linear recurrence as matrix products, norms, the causal convolution.

Shapes: b batch, l tokens, c chunks, q tokens of a chunk, h heads, p value width of a head, n key/state width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm in f32, then the weight."""
    f = x.float()
    return (f * torch.rsqrt(f.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight.to(x.dtype)


class RmsNorm(nn.Module):
    """RMSNorm with a learned weight."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.weight, self.eps)


def linear(out_features: int, in_features: int, gain: float = 1.0, bias: bool = False) -> nn.Linear:
    """A linear layer drawn from a normal distribution of standard deviation `gain / sqrt(in_features)`."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.normal_(layer.weight, std=gain / in_features**0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise causal convolution as shifted products. x [b, l, channels], weight [channels, 1, k]."""
    k, length = weight.shape[-1], x.shape[1]
    padded = F.pad(x, (0, 0, k - 1, 0))
    out = bias.to(x.dtype)
    for i in range(k):
        out = out + padded[:, i : i + length] * weight[:, 0, i].to(x.dtype)
    return out


def chunk_scan(x: Tensor, log_decay: Tensor, keys: Tensor, queries: Tensor, chunk: int) -> Tensor:
    """y_t = sum over s <= t of exp(sum of log_decay over s+1..t) (queries_t . keys_s) x_s.

    This is the state recurrence S_t = exp(log_decay_t) S_{t-1} + keys_t x_t^T, y_t = queries_t S_t, in the block form of
    "Transformers are SSMs" (Dao and Gu, 2024, section 6): products inside a chunk, one state for each chunk, products
    with the state at the chunk's start.

    x [b, l, h, p]; log_decay [b, l, h], f32, not positive; keys, queries [b, l, g, n], where g is h or 1 (shared).
    l must be a multiple of `chunk`. Returns [b, l, h, p].
    """
    b, length, h, p = x.shape
    g, n = keys.shape[2:]
    c = length // chunk
    decay = log_decay.float().view(b, c, chunk, h).permute(0, 1, 3, 2).cumsum(-1)  # [b, c, h, q]
    x = x.view(b, c, chunk, h, p).transpose(2, 3)  # [b, c, h, q, p]
    keys = keys.view(b, c, chunk, g, n).transpose(2, 3)  # [b, c, g, q, n]
    queries = queries.view(b, c, chunk, g, n).transpose(2, 3)

    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    mask = (decay[..., :, None] - decay[..., None, :]).masked_fill(future, float("-inf")).exp()  # [b, c, h, q, q]
    scores = queries @ keys.transpose(-1, -2)  # [b, c, g, q, q]
    inside = (scores * mask).to(x.dtype) @ x

    to_end = (decay[..., -1:] - decay).exp().unsqueeze(-1)
    weighted = (x * to_end).to(x.dtype)
    if g == 1:
        flat = weighted.transpose(2, 3).reshape(b, c, chunk, h * p)
        states = (keys[:, :, 0].transpose(-1, -2) @ flat).view(b, c, n, h, p).permute(0, 3, 1, 2, 4)
    else:
        states = (keys.transpose(-1, -2) @ weighted).transpose(1, 2)  # [b, h, c, n, p]

    total = decay[..., -1].transpose(1, 2).cumsum(-1)  # [b, h, c]: log decay from the start to the end of chunk c
    before = F.pad(total, (1, 0))[..., :-1]
    span = before[..., :, None] - total[..., None, :]  # from the end of chunk z to the start of chunk c
    late = torch.ones(c, c, dtype=torch.bool, device=x.device).triu(0)
    carry = span.masked_fill(late, float("-inf")).exp().to(x.dtype)
    start = (carry @ states.reshape(b, h, c, n * p)).view(b, h, c, n, p)
    if g == 1:
        by_chunk = start.permute(0, 2, 3, 1, 4).reshape(b, c, n, h * p)
        across = (queries[:, :, 0] @ by_chunk).view(b, c, chunk, h, p).transpose(2, 3)
    else:
        across = queries @ start.transpose(1, 2)
    y = inside + across * decay.exp().unsqueeze(-1).to(x.dtype)
    return y.transpose(2, 3).reshape(b, length, h, p)


def token_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, mask: Tensor | None, scale: float, cap: float | None
) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropies of the counted targets, and their number. hidden [b, l, d], head [vocabulary, d]."""
    logits = F.linear(hidden, head.to(hidden.dtype)).float() * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    if mask is None:
        return losses.sum(), losses.new_tensor(float(losses.numel()))
    counted = mask.flatten().float()
    return (losses * counted).sum(), counted.sum()
