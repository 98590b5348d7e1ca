"""Families with the gated delta rule: qwen3_next, qwen3_5_text, qwen3_5_moe_text, olmo_hybrid."""

import torch

from cases import Case, variant, zero
from cases_recurrent import reset

# Betas and decays that differ from token to token.
_GAINS = {"in_proj_ba": 2.0, "in_proj_a": 2.0, "in_proj_b": 2.0, "a_proj": 2.0, "b_proj": 2.0}


def _mixers(model):
    found = [m for m in model.modules() if hasattr(m, "num_v_heads")]
    assert found
    return found


def swap_value_heads(model):
    """Exchange the values of the first and the last head: shows that each reads the key head that is its own."""
    for mixer in _mixers(model):
        assert mixer.num_v_heads > mixer.num_k_heads > 1
        width, first = mixer.head_v_dim, 2 * mixer.key_dim
        last = first + (mixer.num_v_heads - 1) * width
        rows = torch.arange(mixer.conv_dim)
        rows[first:first + width], rows[last:last + width] = (
            torch.arange(last, last + width), torch.arange(first, first + width))
        mixer.in_proj_qkv.weight.copy_(mixer.in_proj_qkv.weight[rows].clone())


def swap_blocks(model):
    """Exchange the rows of two key heads' blocks: shows that the rows of a head lie together."""
    for mixer in _mixers(model):
        assert mixer.num_k_heads > 1
        for linear in (mixer.in_proj_qkvz, mixer.in_proj_ba):
            blocks = linear.weight.view(mixer.num_k_heads, -1, linear.weight.shape[1])
            blocks.copy_(blocks.roll(1, 0).clone())


def _rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


_DELTA = {"A_log": zero("A_log"), "dt_bias": zero("dt_bias"), "norm_eps": reset("variance_epsilon", 0.1)}
_SHAPE = dict(
    vocab_size=112, hidden_size=48, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=256, linear_conv_kernel_dim=4, linear_key_head_dim=8,
    linear_value_head_dim=12, linear_num_key_heads=2, linear_num_value_heads=4,
    layer_types=["linear_attention", "linear_attention", "full_attention"],
    rope_parameters=_rope(10000.0, partial_rotary_factor=0.25),
)
# Odd widths, three value heads to a key head, a kernel of 2, attention first, more of a head rotated.
_ODD = dict(
    vocab_size=97, hidden_size=36, intermediate_size=20, num_hidden_layers=3, num_attention_heads=3,
    num_key_value_heads=1, head_dim=12, linear_conv_kernel_dim=2, linear_key_head_dim=7, linear_value_head_dim=5,
    linear_num_key_heads=2, linear_num_value_heads=6, rms_norm_eps=1e-5,
    layer_types=["full_attention", "linear_attention", "linear_attention"],
    rope_parameters=_rope(1000.0, partial_rotary_factor=0.5),
)

# -------------------------------------------------------------------------------------------- qwen3_next

_NEXT = Case(
    "qwen3_next", "plain",
    {**_SHAPE, "hidden_size": 40, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 16,
     "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True},
    length=90, gains=_GAINS,
    ablations={**_DELTA, "key heads": swap_blocks, "norm_topk_prob": {"norm_topk_prob": False},
               "shared_expert_gate": zero("shared_expert_gate"),
               "rope_theta": {"rope_parameters": _rope(10.0, partial_rotary_factor=0.25)},
               "partial_rotary_factor": {"rope_parameters": _rope(10000.0, partial_rotary_factor=0.5)}},
)

QWEN3_NEXT = [
    _NEXT,
    # Layer 0 dense by decoder_sparse_step, layer 1 with experts, layer 2 dense; weights that don't sum to 1.
    variant(_NEXT, "mixed_layers", length=77,
            config={**_ODD, "decoder_sparse_step": 2, "norm_topk_prob": False, "num_experts": 5,
                    "num_experts_per_tok": 3, "attention_bias": True},
            ablations={"norm_topk_prob": {"norm_topk_prob": True}, "key heads": swap_blocks,
                       "attention_bias": zero("q_proj.bias")}),
    variant(_NEXT, "dense_layers", dtype="bfloat16", length=83,
            config={"mlp_only_layers": [0, 2], "tie_word_embeddings": True, "linear_num_key_heads": 4},
            ablations={"key heads": swap_blocks}),
    variant(_NEXT, "bf16", dtype="bfloat16", ablations={}),
]

# --------------------------------------------------------------------------------------------- qwen3_5

_QWEN3_5 = Case(
    "qwen3_5_text", "plain",
    {**_SHAPE, "rope_parameters": _rope(10000.0, partial_rotary_factor=0.25, mrope_section=[1, 1, 0],
                                        mrope_interleaved=True)},
    length=90, gains=_GAINS,
    ablations={**_DELTA, "value heads": swap_value_heads,
               "rope_theta": {"rope_parameters": _rope(10.0, partial_rotary_factor=0.25)},
               "partial_rotary_factor": {"rope_parameters": _rope(10000.0, partial_rotary_factor=0.5)}},
)

QWEN3_5 = [
    _QWEN3_5,
    variant(_QWEN3_5, "odd", length=77, config={**_ODD, "attention_bias": True, "tie_word_embeddings": True},
            ablations={"value heads": swap_value_heads, "attention_bias": zero("q_proj.bias")}),
    variant(_QWEN3_5, "bf16", dtype="bfloat16", ablations={}),
]

_QWEN3_5_MOE = Case(
    "qwen3_5_moe_text", "plain",
    {**_SHAPE, "hidden_size": 40, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 16,
     "num_experts": 6, "num_experts_per_tok": 2},
    length=90, gains=_GAINS,
    ablations={"value heads": swap_value_heads, "shared_expert_gate": zero("shared_expert_gate"),
               "experts": {"num_experts_per_tok": 3}},
)

QWEN3_5_MOE = [
    _QWEN3_5_MOE,
    variant(_QWEN3_5_MOE, "odd", dtype="bfloat16", length=77, config={**_ODD, "num_experts": 5, "num_experts_per_tok": 3},
            ablations={"value heads": swap_value_heads}),
]

# ------------------------------------------------------------------------------------------ olmo_hybrid

_OLMO = Case(
    "olmo_hybrid", "plain",
    dict(vocab_size=56, hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
         layer_types=_SHAPE["layer_types"], num_key_value_heads=2, max_position_embeddings=256, linear_conv_kernel_dim=4, linear_key_head_dim=8,
         linear_value_head_dim=6, linear_num_key_heads=2, linear_num_value_heads=4, rope_parameters=_rope(None),
         pad_token_id=0),
    length=72, gains=_GAINS,
    ablations={"A_log": zero("A_log"), "dt_bias": zero("dt_bias"), "rms_norm_eps": {"rms_norm_eps": 0.1},
               "linear_allow_neg_eigval": {"linear_allow_neg_eigval": False},
               "rope": {"rope_parameters": _rope(10000.0)}},
    # transformers 5.24.0 saves the joint convolution in three equal parts, wherever queries and keys end.
    note="the convolutions are cut into equal parts",
)

OLMO_HYBRID = [
    _OLMO,
    variant(_OLMO, "rope", length=77,
            config={**_ODD, "vocab_size": 61, "num_hidden_layers": 2, "layer_types": ["full_attention", "linear_attention"],
                    "linear_num_key_heads": 3, "linear_allow_neg_eigval": False,
                    "rope_parameters": _rope(1000.0), "attention_bias": True, "tie_word_embeddings": True},
            ablations={"linear_allow_neg_eigval": {"linear_allow_neg_eigval": True},
                       "rope_theta": {"rope_parameters": _rope(10.0)}}),
    variant(_OLMO, "bf16", dtype="bfloat16", ablations={}),
]

CASES = QWEN3_NEXT + QWEN3_5 + QWEN3_5_MOE + OLMO_HYBRID
