"""Runs a `transformers` model in true float64.

`model.double()` alone is not enough: the modelling code casts to float32 in many places (the reductions of
RMSNorm, softmax, the rotary angles, the Mamba-2 scan, the logits). `Float64` rewrites each such cast while it
is active, so that the run has no float32 rounding except in the weights and in buffers that
were computed at construction (the rotary `inv_freq`, which is float32 in the reference too).
"""

import copy

import torch
from torch.overrides import TorchFunctionMode

_TO_FLOAT = {torch.Tensor.float}


def _promote(value):
    return torch.float64 if value is torch.float32 else value


class Float64(TorchFunctionMode):
    """While active, every cast to float32 becomes a cast to float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _TO_FLOAT:
            return args[0].double()
        args = tuple(_promote(a) for a in args)
        kwargs = {key: _promote(value) for key, value in kwargs.items()}
        return func(*args, **kwargs)


def by_position(model):
    """Whether a token's rotation depends on the length up to it, as in cached decoding from the first token. A full forward pass rotates
    all tokens by the total length."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    return rope.get("rope_type") == "dynamic"


def run(model, tokens):
    """The logits of a list of tokens: one full forward pass without a cache, or token by token where the results differ."""
    if not by_position(model):
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    cache, rows = None, []
    for token in tokens:
        out = model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        rows.append(out.logits[0])
    return torch.cat(rows)


def logits_f64(model, tokens):
    """The logits of `model` for a list of tokens, computed in float64: f64 [tokens, vocab]."""
    default = torch.get_default_dtype()
    wide = copy.deepcopy(model).double()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), Float64():
            out = run(wide, tokens)
    finally:
        torch.set_default_dtype(default)
    if out.dtype != torch.float64:
        raise AssertionError(f"the float64 run gave {out.dtype}")
    return out


def rel_l2(value, reference):
    """Relative L2 error of a whole tensor, computed in float64."""
    value, reference = value.double(), reference.double()
    return float((value - reference).norm() / reference.norm())
