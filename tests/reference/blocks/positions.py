"""Positions: the fixed table of sines, and rotations. Angles are float64 in every run."""

import torch


def sinusoidal(length, width, dtype):
    """`[length, width]`: sines in the first half of the columns, cosines in the second."""
    rate = 10000.0 ** (-2.0 * torch.arange(width // 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)


def rotate(x, theta):
    """Rotates the halves of each head by its position: `[T, heads, head_dim]`. No rotation if `theta` is None."""
    if theta is None:
        return x
    length, _, width = x.shape
    rate = float(theta) ** (-2.0 * torch.arange(width // 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
