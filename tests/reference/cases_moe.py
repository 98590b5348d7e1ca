"""Mixture-of-experts attention families: mixtral, qwen3_moe, olmoe, granitemoe, granitemoeshared."""

from cases import Case, variant, zero

_BASE = dict(
    vocab_size=97, hidden_size=36, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
    num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
)

_MIXTRAL = Case(
    "mixtral", "plain",
    {**_BASE, "vocab_size": 112, "hidden_size": 48, "intermediate_size": 24, "num_attention_heads": 4,
     "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    length=96, ablations={"num_experts_per_tok": {"num_experts_per_tok": 1},
                          "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}},
)
_MIXTRAL_ODD = {**_BASE, "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 19}

MIXTRAL = [
    _MIXTRAL,
    variant(_MIXTRAL, "window", config=_MIXTRAL_ODD, length=77,
            ablations={"sliding_window": {"sliding_window": 20}, "no window": {"sliding_window": None}}),
    variant(_MIXTRAL, "top1", length=70, ablations={},
            config={**_BASE, "num_local_experts": 3, "num_experts_per_tok": 1, "tie_word_embeddings": True}),
    variant(_MIXTRAL, "bf16", dtype="bfloat16", config=_MIXTRAL_ODD, length=77, ablations={}),
    variant(_MIXTRAL, "f16", dtype="float16", config=_MIXTRAL_ODD, length=77, ablations={}),
]

_QWEN3_MOE = Case(
    "qwen3_moe", "norm_topk",
    {**_BASE, "vocab_size": 112, "head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
     "moe_intermediate_size": 12, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True,
     "tie_word_embeddings": False},
    length=90, ablations={"norm_topk_prob": {"norm_topk_prob": False}, "experts": {"num_experts_per_tok": 3}},
)

QWEN3_MOE = [
    _QWEN3_MOE,
    variant(_QWEN3_MOE, "no_norm_topk", length=71,
            config={"norm_topk_prob": False, "num_experts": 5, "num_experts_per_tok": 3, "head_dim": 12},
            ablations={"norm_topk_prob": {"norm_topk_prob": True}}),
    # Layers 0 and 2 are dense because of decoder_sparse_step, layer 1 is MoE, layer 3 is dense because of mlp_only_layers.
    variant(_QWEN3_MOE, "mixed_layers", length=77, ablations={},
            config={"decoder_sparse_step": 2, "mlp_only_layers": [3], "num_hidden_layers": 4, "num_experts": 4,
                    "hidden_size": 32, "head_dim": 8, "tie_word_embeddings": True}),
    # Without max_window_layers, use_sliding_window applies to every layer.
    variant(_QWEN3_MOE, "window", length=74,
            config={"use_sliding_window": True, "sliding_window": 11, "attention_bias": True, "num_experts": 4},
            ablations={"sliding_window": {"sliding_window": 12}}),
]

_OLMOE = Case(
    "olmoe", "clip",
    {**_BASE, "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 16,
     "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": False, "clip_qkv": 1.2,
     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    length=90, ablations={"clip_qkv": {"clip_qkv": None}, "norm_topk_prob": {"norm_topk_prob": True}},
)

OLMOE = [
    _OLMOE,
    variant(_OLMOE, "norm_topk", length=71,
            config={"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1, "norm_topk_prob": True,
                    "clip_qkv": None, "num_experts": 5, "num_experts_per_tok": 3},
            ablations={"norm_topk_prob": {"norm_topk_prob": False}}),
]

_FACTORS = {"embedding_multiplier": 6.0, "attention_multiplier": 0.4, "residual_multiplier": 0.3, "logits_scaling": 4.0}
_GRANITE_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_GRANITE_MOE = Case(
    "granitemoe", "plain",
    {**_BASE, **_FACTORS, "vocab_size": 64, "hidden_size": 24, "intermediate_size": 12, "num_attention_heads": 4,
     "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "tie_word_embeddings": True,
     "rope_parameters": _GRANITE_ROPE},
    length=72, gains={"embed_tokens": 1 / 6.0},
    ablations={**{key: {key: 1.0} for key in _FACTORS}, "experts": {"num_experts_per_tok": 3},
               "rope_theta": {"rope_parameters": {**_GRANITE_ROPE, "rope_theta": 100.0}}},
)

GRANITE_MOE = [
    _GRANITE_MOE,
    variant(_GRANITE_MOE, "odd", length=70, dtype="bfloat16",
            config={"vocab_size": 61, "hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1,
                    "attention_bias": True, "num_local_experts": 6, "num_experts_per_tok": 3,
                    "tie_word_embeddings": False},
            ablations={"bias": zero("proj.bias")}),
]

_GRANITE_MOE_SHARED = variant(
    _GRANITE_MOE, "plain", family="granitemoeshared", config={"shared_intermediate_size": 20, "num_hidden_layers": 2},
    ablations={**_GRANITE_MOE.ablations, "shared": zero("shared_mlp.output_linear")},
)

GRANITE_MOE_SHARED = [
    _GRANITE_MOE_SHARED,
    # The width's default is 0: no shared expert.
    variant(_GRANITE_MOE_SHARED, "unshared", length=70, dtype="bfloat16", ablations={},
            config={"shared_intermediate_size": 0, "num_attention_heads": 2, "num_key_value_heads": 1,
                    "num_hidden_layers": 1}),
]

CASES = MIXTRAL + QWEN3_MOE + OLMOE + GRANITE_MOE + GRANITE_MOE_SHARED
