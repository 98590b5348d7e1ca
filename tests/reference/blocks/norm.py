"""The norms of the residual stream."""

import torch

from .weights import rms


def shapes(kind, name, width):
    return {f"{name}.weight": (width,), **({f"{name}.bias": (width,)} if kind == "layer" else {})}


def norm(kind, w, name, x, eps):
    """`rms`, or `layer`: the mean subtracted, and a bias."""
    if kind == "rms":
        return w.rms(name, x, eps)
    assert kind == "layer", kind
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]
