"""Dense attention families: llama, mistral, qwen2, qwen3, granite."""

from cases import Case, variant, zero

# A plain shape: powers of two.
_PLAIN = dict(
    vocab_size=112, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5,
)
# Deliberately odd: 3 heads of width 24 (12 rotary pairs, not a multiple of 8), ff 40, vocabulary 97.
_ODD = dict(
    vocab_size=97, hidden_size=72, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
    num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-5,
)
# A smaller version, for the variants.
_SMALL = {**_ODD, "hidden_size": 48}


def _theta(value):
    """An ablation: a different rotary base."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": value}}


def _ones(*fragments):
    """An ablation: a norm without its weight."""

    def change(model):
        hit = [p.fill_(1.0) for name, p in model.named_parameters() if any(f in name for f in fragments)]
        assert hit, f"no parameter is called {fragments}"

    return change


_LLAMA = Case(
    "llama", "plain", {**_PLAIN, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    length=96, ablations={"rope_theta": _theta(500000.0), "rms_norm_eps": {"rms_norm_eps": 0.1}},
)
_LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
# Different frequencies for every position after the 24th; the prompt of the greedy tokens ends before it.
_DYNAMIC = dict(rope_type="dynamic", rope_theta=10000.0, factor=3.0)
_YARN = dict(
    rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=512, beta_fast=32.0,
    beta_slow=1.0,
)

LLAMA = [
    _LLAMA,
    variant(_LLAMA, "odd", dtype="bfloat16", config={**_ODD}, length=71),
    variant(
        _LLAMA, "linear", dtype="bfloat16", length=77, ablations={"factor": _theta(10000.0)},
        config={**_SMALL, "num_key_value_heads": 3,
                "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
    ),
    variant(
        _LLAMA, "llama3", config={**_SMALL, "rope_parameters": _LLAMA3},
        ablations={
            "rope_type": _theta(500000.0),
            "low_freq_factor": {"rope_parameters": {**_LLAMA3, "low_freq_factor": 2.0}},
            "high_freq_factor": {"rope_parameters": {**_LLAMA3, "high_freq_factor": 16.0}},
            "original_max": {"rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 32}},
        },
    ),
    variant(
        _LLAMA, "dynamic", dtype="bfloat16", config={**_SMALL, "max_position_embeddings": 24, "rope_parameters": _DYNAMIC},
        ablations={
            "rope_type": _theta(10000.0),
            "factor": {"rope_parameters": {**_DYNAMIC, "factor": 2.0}},
            "max_position_embeddings": {"max_position_embeddings": 40},
        },
    ),
    variant(
        _LLAMA, "yarn", config={**_SMALL, "rope_parameters": _YARN}, length=90,
        ablations={
            "rope_type": _theta(10000.0),
            "beta_fast": {"rope_parameters": {**_YARN, "beta_fast": 4.0}},
            "beta_slow": {"rope_parameters": {**_YARN, "beta_slow": 3.0}},
            "attention_factor": {"rope_parameters": {**_YARN, "attention_factor": 1.0}},
        },
    ),
    variant(
        _LLAMA, "yarn_attention_factor", dtype="bfloat16", length=70,
        config={**_SMALL, "rope_parameters": {**_YARN, "attention_factor": 0.7, "truncate": False, "factor": 6.0}},
        ablations={"attention_factor": {"rope_parameters": {**_YARN, "factor": 6.0, "truncate": False}},
                   "truncate": {"rope_parameters": {**_YARN, "factor": 6.0, "attention_factor": 0.7}}},
    ),
    variant(_LLAMA, "tied", config={**_SMALL, "tie_word_embeddings": True}, length=73),
    variant(
        _LLAMA, "biases", config={**_SMALL, "attention_bias": True, "mlp_bias": True}, length=75,
        ablations={
            label: zero(f"{label}.bias")
            for label in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        },
    ),
    # 4 heads of width 20 in a hidden size of 48: q_proj is [80, 48], o_proj [48, 80].
    variant(
        _LLAMA, "head_dim", dtype="bfloat16", length=79,
        config=dict(hidden_size=48, head_dim=20, num_attention_heads=4, num_key_value_heads=2,
                    intermediate_size=56, vocab_size=101),
    ),
    variant(_LLAMA, "bf16", dtype="bfloat16", config={**_SMALL}),
    variant(_LLAMA, "f16", dtype="float16", config={**_SMALL}),
    variant(_LLAMA, "sharded", shard="40KB", config={**_SMALL}),
]

_MISTRAL = Case(
    "mistral", "window",
    {**_SMALL, "sliding_window": 17, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    length=90, ablations={"sliding_window": {"sliding_window": 18}, "no window": {"sliding_window": None}},
)

MISTRAL = [
    _MISTRAL,
    variant(_MISTRAL, "no_window", dtype="bfloat16", length=71, config={"sliding_window": None, "num_key_value_heads": 3},
            ablations={"sliding_window": {"sliding_window": 32}}),
    # head_dim differs from hidden / heads, as in Mistral Nemo.
    variant(_MISTRAL, "head_dim", length=77,
            config={"hidden_size": 40, "head_dim": 24, "num_attention_heads": 2, "sliding_window": 32}),
]

_QWEN2 = Case(
    "qwen2", "plain",
    {**_SMALL, "vocab_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
     "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "use_sliding_window": False,
     "max_window_layers": 1},
    length=96, ablations={name: zero(f"{name}.bias") for name in ("q_proj", "k_proj", "v_proj")},
)

QWEN2 = [
    _QWEN2,
    variant(
        _QWEN2, "window", length=79,
        config={**_SMALL, "tie_word_embeddings": False, "num_hidden_layers": 3, "use_sliding_window": True,
                "sliding_window": 13, "max_window_layers": 1},
        ablations={
            "sliding_window": {"sliding_window": 14},
            "max_window_layers": {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
            "all layers": {"layer_types": ["sliding_attention"] * 3},
        },
    ),
    variant(
        _QWEN2, "yarn", length=71, config={**_SMALL, "rope_parameters": {**_YARN, "rope_theta": 1000000.0}},
        ablations={"rope_type": _theta(1000000.0)},
    ),
]

_QWEN3 = Case(
    "qwen3", "plain",
    {**_SMALL, "vocab_size": 128, "hidden_size": 40, "head_dim": 16, "num_attention_heads": 4,
     "num_key_value_heads": 2, "tie_word_embeddings": True,
     "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    length=96, ablations={"q_norm": _ones("q_norm"), "k_norm": _ones("k_norm"), "eps": {"rms_norm_eps": 0.1}},
)

QWEN3 = [
    _QWEN3,
    variant(
        _QWEN3, "window", length=77,
        config={**_SMALL, "head_dim": 20, "tie_word_embeddings": False, "attention_bias": True,
                "use_sliding_window": True, "sliding_window": 13, "max_window_layers": 1},
        ablations={"sliding_window": {"sliding_window": 14},
                   "max_window_layers": {"layer_types": ["full_attention"] * 2},
                   "q_norm": _ones("q_norm"), "o_proj.bias": zero("o_proj.bias")},
    ),
]

_GRANITE = Case(
    "granite", "plain",
    {**_SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
     "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "embedding_multiplier": 6.0,
     "attention_multiplier": 0.4, "residual_multiplier": 0.3, "logits_scaling": 4.0},
    length=90, gains={"embed_tokens": 1 / 6.0},
    ablations={
        "embedding_multiplier": {"embedding_multiplier": 1.0},
        "attention_multiplier": {"attention_multiplier": 0.25},
        "residual_multiplier": {"residual_multiplier": 1.0}, "logits_scaling": {"logits_scaling": 1.0},
    },
)

GRANITE = [
    _GRANITE,
    variant(_GRANITE, "biases", dtype="bfloat16", length=71,
            config={**_SMALL, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
            ablations={**_GRANITE.ablations, "bias": zero("proj.bias")}),
]

CASES = LLAMA + MISTRAL + QWEN2 + QWEN3 + GRANITE
