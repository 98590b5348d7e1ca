"""Kimi Linear: Kimi Delta Attention, and latent attention without positions."""

import torch

from cases import Case, variant, zero
from cases_recurrent import reset


def _attentions(model):
    found = [m for m in model.modules() if hasattr(m, "kv_a_proj_with_mqa")]
    assert found
    return found


def drop_common_key(model):
    """Zeroes the key that all heads have in common."""
    for attention in _attentions(model):
        assert attention.qk_rope_head_dim
        attention.kv_a_proj_with_mqa.weight[attention.kv_lora_rank:].zero_()


def swap_up(model):
    """Exchanges the keys' and values' rows of the first head: shows that the rows of a head lie together."""
    for attention in _attentions(model):
        rows = attention.kv_b_proj.weight[:attention.qk_nope_head_dim + attention.v_head_dim]
        rows.copy_(rows.roll(attention.v_head_dim, 0).clone())


def reverse_taps(model):
    """Exchanges the past and the present of every convolution."""
    for name, parameter in model.named_parameters():
        if name.endswith("conv1d.weight"):
            parameter.copy_(parameter.flip(-1).clone())


_LINEAR, _FULL = "linear_attention", "full_attention"
_DELTA = {"A_log": zero("A_log"), "dt_bias": zero("dt_bias"), "decay": zero("f_b_proj"), "gate": zero("g_b_proj"),
          "taps": reverse_taps, "norm_eps": reset("variance_epsilon", 0.1)}
_KIMI = Case(
    "kimi_linear", "plain",
    dict(vocab_size=53, hidden_size=24, intermediate_size=16, moe_intermediate_size=6, num_hidden_layers=3,
         num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=12, q_lora_rank=None, qk_nope_head_dim=8,
         qk_rope_head_dim=4, v_head_dim=6, linear_head_dim=8, linear_num_heads=3, linear_conv_kernel_dim=4,
         layer_types=[_LINEAR, _FULL, _LINEAR], mlp_layer_types=["dense", "sparse", "sparse"], n_shared_experts=1,
         num_local_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, routed_scaling_factor=2.446,
         max_position_embeddings=256, pad_token_id=0, bos_token_id=None, eos_token_id=None),
    length=71, gains={"b_proj": 1.5},
    ablations={**_DELTA, "common key": drop_common_key, "heads": swap_up, "shared_experts": zero("shared_experts"),
               "routed_scaling_factor": {"routed_scaling_factor": 1.0}, "norm_topk_prob": {"norm_topk_prob": False}},
)

KIMI = [
    _KIMI,
    # Queries of low rank, no common key, biases, groups of experts, weights that don't sum to 1; more of each in odd numbers.
    variant(_KIMI, "low_rank", length=70,
            config=dict(vocab_size=50, hidden_size=28, num_attention_heads=3, num_key_value_heads=3, kv_lora_rank=9,
                        q_lora_rank=10, qk_nope_head_dim=7, qk_rope_head_dim=0, v_head_dim=11, linear_head_dim=6,
                        linear_num_heads=5, linear_conv_kernel_dim=2, attention_bias=True, tie_word_embeddings=True,
                        layer_types=[_FULL, _LINEAR, _FULL], mlp_layer_types=["sparse", "dense", "sparse"],
                        n_shared_experts=2, num_local_experts=6, n_group=3, topk_group=2, norm_topk_prob=False,
                        num_experts_per_tok=3, moe_intermediate_size=4, routed_scaling_factor=1.3),
            ablations={"heads": swap_up, "q_a.bias": zero("q_a_proj.bias"), "kv_a.bias": zero("kv_a_proj_with_mqa.bias"),
                       "o.bias": zero("o_proj.bias"), "topk_group": {"topk_group": 3},
                       "norm_topk_prob": {"norm_topk_prob": True}, "taps": reverse_taps}),
    variant(_KIMI, "bf16", dtype="bfloat16", ablations={}, keep_f32=("A_log", "dt_bias", "e_score_correction_bias")),
]

CASES = KIMI
