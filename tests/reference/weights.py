"""Random weights that exercise everything: no norm of only ones, no zero bias, no inactive gate.

The scales follow the shapes (1/sqrt(fan_in)), the recurrent parameters are drawn around the values in trained models
(decay rates, time steps, gate biases), and the head is scaled so that the logits have a given spread.
"""

import math

import torch


def _inverse_softplus(x):
    return x + torch.log(-torch.expm1(-x))


def _normal(shape, g, scale=1.0):
    return torch.randn(shape, generator=g) * scale


def _uniform(shape, g, low, high):
    return low + (high - low) * torch.rand(shape, generator=g)


def _time_step_bias(shape, g):
    """dt_bias such that softplus(dt_bias) is log-uniform in [0.005, 0.5], plus noise."""
    dt = torch.exp(_uniform(shape, g, math.log(0.005), math.log(0.5)))
    return _inverse_softplus(dt) + _normal(shape, g, 0.1)


def _draw(name, shape, g):
    if name.endswith("A_log"):
        if len(shape) in (2, 3):  # Mamba: [d_inner, d_state], by head too in Zamba, rates 1..d_state as in S4D-real
            return torch.log(torch.arange(1, shape[-1] + 1).float()).expand(shape) + _normal(shape, g, 0.3)
        return torch.log(_uniform(shape, g, 1.0, 16.0)) + _normal(shape, g, 0.1)
    if name.endswith(("dt_bias", "dt_proj.bias", "dt_proj_bias")):
        return _time_step_bias(shape, g)
    if name.endswith(".D"):
        return 1.0 + _normal(shape, g, 0.5)
    if "ifgate_preact.bias" in name:
        both = [_draw(f"{gate}_preact.bias", (shape[0] // 2,), g) for gate in ("igate", "fgate")]
        return torch.cat(both)
    if "igate_preact.bias" in name:
        return -1.0 + _normal(shape, g, 1.5)
    if "fgate_preact.bias" in name:
        return _uniform(shape, g, 1.0, 6.0)
    if "norm" in name and name.endswith(".weight"):
        return 1.0 + _normal(shape, g, 0.25)
    if len(shape) == 1:  # every bias
        return _normal(shape, g, 0.3)
    if "conv1d.weight" in name:
        return _normal(shape, g, 0.8 / math.sqrt(shape[-1]))
    if "embed" in name:
        return _normal(shape, g)
    return _normal(shape, g, 1.0 / math.sqrt(shape[-1]))


# Sharper attention, routing and gates than 1/sqrt(fan_in) gives, so that they matter.
_GAINS = {
    "q_proj.weight": 1.6,
    "k_proj.weight": 1.6,
    "block_sparse_moe.router": 1.5,
    "mlp.gate.weight": 1.5,
    "mixer.gate.weight": 1.5,
    "feed_forward.gate.weight": 1.5,
    "feed_forward.router.weight": 1.5,
    "igate_preact.weight": 2.0,
    "fgate_preact.weight": 2.0,
    "dt_proj.weight": 1.0,
}


def _is_around_one(model, name):
    """Whether a norm multiplies with 1 + its weight."""
    own = "linear_attn.norm" in name  # the gated norm of a delta rule's heads
    return model.config.model_type.startswith(("qwen3_next", "qwen3_5")) and "norm" in name and not own


def _offset(model):
    """What is added to the weight of the final norm."""
    return 1.0 if _is_around_one(model, "norm") else 0.0


def randomize(model, case, seed):
    """Draws every parameter of `model` from `seed`. Tied parameters are drawn once."""
    g = torch.Generator().manual_seed(seed)
    gains = {**_GAINS, **case.gains}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            value = _draw(name, tuple(parameter.shape), g)
            for fragment, gain in gains.items():
                if fragment in name:
                    value = value * gain
            if _is_around_one(model, name):
                value = value - 1.0
            parameter.copy_(value)
        for name, buffer in sorted(model.named_buffers()):
            # What moves the choice of experts is a buffer, not a parameter.
            if name.endswith(("e_score_correction_bias", "expert_bias")):
                buffer.copy_(_normal(tuple(buffer.shape), g, 0.2))
        if model.config.tie_word_embeddings:
            # With a positive final norm, a tied head favours the token that was just read, and greedy decoding
            # would repeat it forever: give the norm's weights both signs.
            weight = final_norm(model).weight
            weight.copy_(_normal(tuple(weight.shape), g) - _offset(model))


def final_norm(model):
    """The norm before the head."""
    base = model.base_model
    for attribute in ("norm", "norm_f", "out_norm", "final_layernorm", "embedding_norm"):
        if hasattr(base, attribute):
            return getattr(base, attribute)
    raise AssertionError(f"{type(base).__name__} has no known final norm")


def scale_logits(model, tokens, std):
    """Scales the head (or the final norm, if the head is tied to the embedding) for a given spread of the logits."""
    cap = getattr(model.config, "output_logit_soft_cap", None)
    with torch.no_grad():
        # Undo the soft cap to get the scale of the head itself.
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
        if cap:
            logits = cap * torch.atanh((logits / cap).clamp(-0.999, 0.999))
        factor = std / logits.std()
        if model.config.tie_word_embeddings:
            norm = final_norm(model)
            offset = _offset(model)
            norm.weight.add_(offset).mul_(factor).sub_(offset)
            if getattr(norm, "bias", None) is not None:
                norm.bias.mul_(factor)
        else:
            model.get_output_embeddings().weight.mul_(factor)


def is_kept(case, name):
    """Whether a half-precision case stores this tensor in f32."""
    return bool(case.keep_f32) and name.endswith(case.keep_f32)


def round_weights(model, case):
    """Rounds the weights to the stored dtype, in place; they stay f32."""
    dtype = getattr(torch, case.dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not is_kept(case, name):
                parameter.copy_(parameter.to(dtype).float())
