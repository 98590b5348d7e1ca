"""LFM2: gated short convolutions between layers of attention."""

import torch

from cases import Case, variant, zero


def reverse_taps(model):
    """Exchange the past and the present of every convolution."""
    for name, parameter in model.named_parameters():
        if name.endswith("conv.conv.weight"):
            parameter.copy_(parameter.flip(-1).clone())


def swap_gates(model):
    """Exchange the gates before and after the convolution."""
    for name, parameter in model.named_parameters():
        if "conv.in_proj" in name:
            b, c, x = parameter.chunk(3, dim=0)
            parameter.copy_(torch.cat([c, b, x]))


_TAPS = {"taps": reverse_taps, "gates": swap_gates}
_LFM2 = Case(
    "lfm2", "plain",
    dict(vocab_size=112, hidden_size=48, intermediate_size=60, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=2, max_position_embeddings=256, norm_eps=1e-5, tie_word_embeddings=True, conv_L_cache=3,
         conv_bias=False, block_multiple_of=8, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True,
         layer_types=["conv", "full_attention", "conv"],
         rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
    length=96,
    ablations={**_TAPS, "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
               "norm_eps": {"norm_eps": 0.1}},
)

LFM2 = [
    _LFM2,
    # Kernels of even and of odd length, biases, a head of its own, a width that is rounded up.
    variant(_LFM2, "biases", length=71,
            config=dict(vocab_size=97, hidden_size=36, num_attention_heads=3, num_key_value_heads=1,
                        intermediate_size=50, block_multiple_of=5, block_ffn_dim_multiplier=1.3, conv_bias=True,
                        num_hidden_layers=4,
                        conv_L_cache=6, tie_word_embeddings=False,
                        layer_types=["full_attention", "conv", "full_attention", "conv"]),
            ablations={**_TAPS, "conv.bias": zero("conv.conv.bias"), "in_proj.bias": zero("in_proj.bias"),
                       "out_proj.bias": zero("conv.out_proj.bias")}),
    variant(_LFM2, "long_kernel", length=83,
            config=dict(conv_L_cache=11, block_auto_adjust_ff_dim=False, intermediate_size=40, num_hidden_layers=3,
                        layer_types=["conv", "conv", "full_attention"]),
            ablations=_TAPS),
    # A single tap has no past: no state. Every head has keys of its own.
    variant(_LFM2, "one_tap", length=74, cached="same",
            config=dict(conv_L_cache=1, intermediate_size=71, num_key_value_heads=4, num_hidden_layers=2,
                        layer_types=["conv", "full_attention"]),
            ablations={"taps": zero("conv.conv.weight")}),
    variant(_LFM2, "bf16", dtype="bfloat16"),
]

CASES = LFM2
