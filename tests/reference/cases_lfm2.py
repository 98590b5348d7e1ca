"""LFM2, LFM2-MoE and LFM3: gated short convolutions between layers of attention."""

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
    variant(_LFM2, "biases", dtype="bfloat16", length=71,
            config=dict(vocab_size=97, hidden_size=36, num_attention_heads=3, num_key_value_heads=1,
                        intermediate_size=50, block_multiple_of=5, block_ffn_dim_multiplier=1.3, conv_bias=True,
                        num_hidden_layers=4,
                        conv_L_cache=6, tie_word_embeddings=False,
                        layer_types=["full_attention", "conv", "full_attention", "conv"]),
            ablations={**_TAPS, "conv.bias": zero("conv.conv.bias"), "in_proj.bias": zero("in_proj.bias"),
                       "out_proj.bias": zero("conv.out_proj.bias")}),
    variant(_LFM2, "long_kernel", dtype="bfloat16", length=83,
            config=dict(conv_L_cache=11, block_auto_adjust_ff_dim=False, intermediate_size=40, num_hidden_layers=3,
                        layer_types=["conv", "conv", "full_attention"]),
            ablations=_TAPS),
    # A single tap has no past: no state. Every head has keys of its own.
    variant(_LFM2, "one_tap", dtype="bfloat16", length=74, cached="same",
            config=dict(conv_L_cache=1, intermediate_size=71, num_key_value_heads=4, num_hidden_layers=2,
                        layer_types=["conv", "full_attention"]),
            ablations={"taps": zero("conv.conv.weight")}),
    variant(_LFM2, "bf16", dtype="bfloat16"),
]

# --------------------------------------------------------------------------------------------- lfm2_moe

_LFM2_MOE = Case(
    "lfm2_moe", "plain",
    dict(vocab_size=64, hidden_size=24, intermediate_size=40, moe_intermediate_size=12, num_hidden_layers=3,
         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, norm_eps=1e-5,
         tie_word_embeddings=True, conv_L_cache=3, conv_bias=False, num_dense_layers=1, num_experts=5,
         num_experts_per_tok=2, routed_scaling_factor=1.7, layer_types=["conv", "full_attention", "conv"],
         rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
    length=72,
    ablations={**_TAPS, "selection bias": {"use_expert_bias": False}, "norm_topk_prob": {"norm_topk_prob": False},
               "routed_scaling_factor": {"routed_scaling_factor": 1.0}, "experts": {"num_experts_per_tok": 3}},
)

LFM2_MOE = [
    _LFM2_MOE,
    # Experts in every layer, by their scores alone, whose weights are as the sigmoids are.
    variant(_LFM2_MOE, "odd", length=70, dtype="bfloat16", seed=100,
            config=dict(vocab_size=61, hidden_size=36, num_attention_heads=3, num_key_value_heads=1, num_dense_layers=0,
                        num_hidden_layers=2, layer_types=["full_attention", "conv"], conv_bias=True, conv_L_cache=4,
                        num_experts=6, num_experts_per_tok=3, use_expert_bias=False, norm_topk_prob=False,
                        routed_scaling_factor=1.0, tie_word_embeddings=False),
            ablations={**_TAPS, "norm_topk_prob": {"norm_topk_prob": True}, "conv.bias": zero("conv.conv.bias")}),
]

# ------------------------------------------------------------------------------------------------- lfm3

_LFM3_ROPE = {"full_attention": {"rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
              "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}


def _lfm3_rope(kind, **changes):
    """The rotary parameters with those of one kind of layer changed."""
    return {"rope_parameters": {**_LFM3_ROPE, kind: {**_LFM3_ROPE[kind], **changes}}}


_LFM3 = Case(
    "lfm3", "plain",
    dict(vocab_size=64, hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=2, head_dim=8, max_position_embeddings=256, norm_eps=1e-5, tie_word_embeddings=True,
         sliding_window=13, layer_types=["conv", "full_attention", "sliding_attention"], rope_parameters=_LFM3_ROPE,
         pad_token_id=0),
    length=72,
    ablations={
        **_TAPS, "norms": {"use_sandwich_norm": False}, "gates": {"use_attention_gate": False},
        "window": {"sliding_window": 14}, "theta": _lfm3_rope("full_attention", rope_theta=100.0),
        "proportion": _lfm3_rope("full_attention", partial_rotary_factor=0.75),
        "sliding theta": _lfm3_rope("sliding_attention", rope_theta=10000.0),
    },
)

LFM3 = [
    _LFM3,
    # Rotary parameters are the defaults, a head's pairs are odd in number, and nothing is gated.
    variant(_LFM3, "odd", length=70, dtype="bfloat16",
            config=dict(vocab_size=61, hidden_size=36, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
                        conv_L_cache=4, conv_bias=True, attention_bias=True, use_attention_gate=False,
                        tie_word_embeddings=False, rope_parameters=None,
                        layer_types=["sliding_attention", "conv", "full_attention"]),
            ablations={**_TAPS, "conv.bias": zero("conv.conv.bias"), "proj.bias": zero("v_proj.bias", "o_proj.bias"),
                       "norms": {"use_sandwich_norm": False}}),
]

CASES = LFM2 + LFM2_MOE + LFM3
