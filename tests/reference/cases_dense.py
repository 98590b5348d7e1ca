"""Dense attention families: llama, mistral, qwen2, qwen3, granite."""

from cases import Case, variant

# A plain shape: powers of two.
_PLAIN = dict(
    vocab_size=112, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5,
)
# Odd on purpose: 3 heads of 24 (12 rotary pairs: no multiple of 8), ff 40, vocabulary 97.
_ODD = dict(
    vocab_size=97, hidden_size=72, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
    num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-5,
)
# The same in small, for the variants.
_SMALL = {**_ODD, "hidden_size": 48}


def _theta(value):
    """An ablation: another rotary base."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": value}}


def _zero(*fragments):
    """An ablation: zero every parameter whose name holds one of the fragments."""

    def change(model):
        hit = [p.zero_() for name, p in model.named_parameters() if any(f in name for f in fragments)]
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
_YARN = dict(
    rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=512, beta_fast=32.0,
    beta_slow=1.0,
)

LLAMA = [
    _LLAMA,
    variant(_LLAMA, "odd", config={**_ODD}, length=71),
    variant(
        _LLAMA, "linear", length=77, ablations={"factor": _theta(10000.0)},
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
        _LLAMA, "yarn", config={**_SMALL, "rope_parameters": _YARN}, length=90,
        ablations={
            "rope_type": _theta(10000.0),
            "beta_fast": {"rope_parameters": {**_YARN, "beta_fast": 4.0}},
            "beta_slow": {"rope_parameters": {**_YARN, "beta_slow": 3.0}},
            "attention_factor": {"rope_parameters": {**_YARN, "attention_factor": 1.0}},
        },
    ),
    variant(
        _LLAMA, "yarn_attention_factor", length=70,
        config={**_SMALL, "rope_parameters": {**_YARN, "attention_factor": 0.7, "truncate": False, "factor": 6.0}},
        ablations={"attention_factor": {"rope_parameters": {**_YARN, "factor": 6.0, "truncate": False}},
                   "truncate": {"rope_parameters": {**_YARN, "factor": 6.0, "attention_factor": 0.7}}},
    ),
    variant(_LLAMA, "tied", config={**_SMALL, "tie_word_embeddings": True}, length=73),
    variant(
        _LLAMA, "biases", config={**_SMALL, "attention_bias": True, "mlp_bias": True}, length=75,
        ablations={
            label: _zero(f"{label}.bias")
            for label in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        },
    ),
    # 4 heads of 20 in a hidden size of 48: q_proj is [80, 48], o_proj [48, 80].
    variant(
        _LLAMA, "head_dim", length=79,
        config=dict(hidden_size=48, head_dim=20, num_attention_heads=4, num_key_value_heads=2,
                    intermediate_size=56, vocab_size=101),
    ),
    variant(_LLAMA, "bf16", dtype="bfloat16", config={**_SMALL}),
    variant(_LLAMA, "f16", dtype="float16", config={**_SMALL}),
    variant(_LLAMA, "sharded", shard="40KB", config={**_SMALL}),
]

CASES = LLAMA
