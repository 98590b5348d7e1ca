"""The tensors of a checkpoint, seen from one of its parts."""

import torch
from torch.nn.functional import linear


class Weights:
    """The tensors whose names begin with `prefix`, and what the run notes down about its choices."""

    def __init__(self, tensors, prefix="", gaps=None):
        self.tensors, self.prefix = tensors, prefix
        # How far each choice (of experts, of keys) is from another one. A choice close to a tie would depend on rounding.
        self.gaps = [] if gaps is None else gaps

    def below(self, name):
        return Weights(self.tensors, f"{self.prefix}{name}.", self.gaps)

    def __getitem__(self, name):
        return self.tensors[self.prefix + name]

    def get(self, name):
        return self.tensors.get(self.prefix + name)

    def linear(self, name, x):
        """`W x (+ b)`: `[..., in]` to `[..., out]`."""
        return linear(x, self[f"{name}.weight"], self.get(f"{name}.bias"))

    def rms(self, name, x, eps):
        """RMS norm over the last axis."""
        return rms(x, eps) * self[f"{name}.weight"]


def rms(x, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def linear_shapes(name, out, into, bias):
    """The tensors of a projection."""
    shapes = {f"{name}.weight": (out, into)}
    if bias:
        shapes[f"{name}.bias"] = (out,)
    return shapes
