"""The short convolution before a recurrent scan."""

import torch


def causal_conv(w, name, x):
    """A depthwise convolution `[T, channels]` that ends at each position; before the first are zeros."""
    weight = w[f"{name}.weight"][:, 0]  # [channels, kernel]
    kernel = weight.shape[1]
    padded = torch.cat([x.new_zeros(kernel - 1, x.shape[1]), x])
    out = sum(padded[i:i + len(x)] * weight[:, i] for i in range(kernel))
    bias = w.get(f"{name}.bias")
    return out if bias is None else out + bias


def conv_shapes(name, channels, kernel, bias):
    return {f"{name}.weight": (channels, 1, kernel), **({f"{name}.bias": (channels,)} if bias else {})}
