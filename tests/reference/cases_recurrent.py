"""Recurrent and hybrid families: granitemoehybrid, mamba2, mamba, xlstm, bamba, falcon_mamba."""

import torch

from cases import Case, variant, zero

# ---------------------------------------------------------------------------------------------- ablations


def _mixers(model):
    found = [m for m in model.modules() if hasattr(m, "A_log")]
    assert found
    return found


def swap_groups(model):
    """Swaps the B of the first two groups: shows that each head reads its own group."""
    for mixer in _mixers(model):
        n, d = mixer.ssm_state_size, mixer.intermediate_size
        rows = torch.arange(mixer.in_proj.weight.shape[0])
        rows[2 * d:2 * d + n], rows[2 * d + n:2 * d + 2 * n] = (
            torch.arange(2 * d + n, 2 * d + 2 * n), torch.arange(2 * d, 2 * d + n))
        mixer.in_proj.weight.copy_(mixer.in_proj.weight[rows].clone())


def norm_over_all(model):
    """One gated norm over the whole inner width instead of one for each group."""
    for mixer in _mixers(model):
        mixer.norm.group_size = mixer.intermediate_size


def reset(name, value):
    """Sets an attribute of every mixer (and of its norms)."""

    def change(model):
        hit = [setattr(m, name, value) for m in model.modules() if hasattr(m, name)]
        assert hit, f"no module has {name}"

    return change


# ----------------------------------------------------------------------------------------------- mamba2

_MAMBA2 = Case(
    "mamba2", "plain",
    dict(vocab_size=112, hidden_size=48, num_heads=6, head_dim=16, state_size=16, n_groups=1, expand=2,
         conv_kernel=4, num_hidden_layers=2, chunk_size=32, tie_word_embeddings=True),
    length=96,
    ablations={"D": zero(".D"), "dt_bias": zero("dt_bias"), "A_log": zero("A_log"),
               "conv1d.bias": zero("conv1d.bias"), "norm_eps": reset("variance_epsilon", 0.1)},
)
_MAMBA2_ODD = dict(
    vocab_size=97, hidden_size=36, num_heads=6, head_dim=12, state_size=10, n_groups=3, conv_kernel=3, chunk_size=64,
    tie_word_embeddings=False,
)

MAMBA2 = [
    _MAMBA2,
    variant(_MAMBA2, "groups", config=_MAMBA2_ODD, length=71,
            ablations={"groups": swap_groups, "norm per group": norm_over_all}),
    # As many groups as heads, a kernel of 2, an odd head width, a state size that isn't a multiple of 4.
    variant(_MAMBA2, "groups_all", length=83,
            config=dict(vocab_size=101, hidden_size=42, num_heads=4, head_dim=21, state_size=7, n_groups=4,
                        conv_kernel=2, chunk_size=256),
            ablations={"groups": swap_groups, "norm per group": norm_over_all}),
    variant(_MAMBA2, "biases", config={**_MAMBA2_ODD, "use_bias": True, "n_groups": 2}, length=77,
            ablations={"in_proj.bias": zero("in_proj.bias"), "out_proj.bias": zero("out_proj.bias")}),
    variant(_MAMBA2, "no_conv_bias", length=74,
            config={**_MAMBA2_ODD, "use_conv_bias": False, "n_groups": 1, "residual_in_fp32": False}, ablations={}),
    # expand 1: the inner width is the hidden width.
    variant(_MAMBA2, "expand1", config=dict(expand=1, num_heads=3, head_dim=16, state_size=24), ablations={}),
    variant(
        _MAMBA2, "dt_limit", config=dict(time_step_limit=(0.05, 0.3)), length=70, cached="other",
        ablations={"time_step_limit": {"time_step_limit": (0.0, float("inf"))}},
        note="time_step_limit is active. The logits are those of the full forward, which clamps softplus(dt + dt_bias)"
             " to the limit at every position. The single-token decode of transformers 5.23.0 does not clamp, so its"
             " cached greedy tokens differ; the greedy tokens here come from full recomputation.",
    ),
    variant(_MAMBA2, "bf16", dtype="bfloat16"),
    variant(_MAMBA2, "f16", dtype="float16"),
]

# ------------------------------------------------------------------------------------------------ mamba

_MAMBA = Case(
    "mamba", "plain",
    dict(vocab_size=112, hidden_size=48, state_size=16, num_hidden_layers=2, expand=2, conv_kernel=4),
    length=96,
    ablations={"D": zero(".D"), "dt_proj.bias": zero("dt_proj.bias"), "A_log": zero("A_log"),
               "conv1d.bias": zero("conv1d.bias"), "norm_eps": reset("variance_epsilon", 0.1)},
)
_MAMBA_ODD = dict(vocab_size=97, hidden_size=40, state_size=9, conv_kernel=3, time_step_rank=5)

MAMBA = [
    _MAMBA,
    variant(_MAMBA, "untied", dtype="bfloat16", config={**_MAMBA_ODD, "tie_word_embeddings": False}, length=71),
    variant(_MAMBA, "biases", config={**_MAMBA_ODD, "use_bias": True, "conv_kernel": 2}, length=77,
            ablations={"in_proj.bias": zero("in_proj.bias"), "out_proj.bias": zero("out_proj.bias")}),
    variant(_MAMBA, "no_conv_bias", length=74, ablations={},
            config={**_MAMBA_ODD, "use_conv_bias": False, "expand": 1, "time_step_rank": 1, "state_size": 5,
                    "num_hidden_layers": 3}),
    variant(_MAMBA, "bf16", dtype="bfloat16"),
    variant(_MAMBA, "f16", dtype="float16"),
]

# ----------------------------------------------------------------------------------------- falcon_mamba

_FALCON = Case(
    "falcon_mamba", "plain",
    dict(vocab_size=112, hidden_size=48, state_size=16, num_hidden_layers=2, conv_kernel=4),
    length=96,
    ablations={"mixer_rms_eps": {"mixer_rms_eps": 0.5}, "dt_proj.bias": zero("dt_proj.bias")},
)

FALCON_MAMBA = [
    _FALCON,
    variant(_FALCON, "eps", dtype="bfloat16", length=71,
            config={**_MAMBA_ODD, "mixer_rms_eps": 0.25, "tie_word_embeddings": False},
            ablations={"mixer_rms_eps": {"mixer_rms_eps": 1e-6}}),
    variant(_FALCON, "biases", config={**_MAMBA_ODD, "use_bias": True, "use_conv_bias": False}, length=77,
            ablations={"in_proj.bias": zero("in_proj.bias"), "out_proj.bias": zero("out_proj.bias")}),
]

# ------------------------------------------------------------------------------------- granitemoehybrid

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MULTIPLIERS = {
    "embedding_multiplier": {"embedding_multiplier": 1.0},
    "attention_multiplier": {"attention_multiplier": 0.05},
    "residual_multiplier": {"residual_multiplier": 1.0},
    "logits_scaling": {"logits_scaling": 1.0},
}
_GRANITE = Case(
    "granitemoehybrid", "plain",
    dict(vocab_size=112, hidden_size=48, intermediate_size=12, shared_intermediate_size=16, num_hidden_layers=3,
         layer_types=["linear_attention", "full_attention", "linear_attention"], num_attention_heads=4,
         num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
         position_embedding_type="nope", num_local_experts=4, num_experts_per_tok=2, mamba_n_heads=6,
         mamba_d_head=16, mamba_d_state=16, mamba_n_groups=1, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=32,
         embedding_multiplier=6.0, attention_multiplier=0.5, residual_multiplier=0.4, logits_scaling=3.0),
    length=96,
    ablations={
        **_MULTIPLIERS,
        "rope": {"position_embedding_type": "rope", "rope_parameters": _ROPE},
        "num_experts_per_tok": {"num_experts_per_tok": 3},
        "shared expert": zero("shared_mlp.output_linear"),
    },
    gains={"embed_tokens": 1 / 6.0},
)
_GRANITE_ODD = dict(
    vocab_size=97, hidden_size=36, intermediate_size=12, shared_intermediate_size=20, num_attention_heads=3,
    num_key_value_heads=1, mamba_n_heads=6, mamba_d_head=12, mamba_d_state=10, mamba_d_conv=3, mamba_chunk_size=64,
)
_DENSE = dict(num_local_experts=0, num_experts_per_tok=0, intermediate_size=40, shared_intermediate_size=40)

GRANITE = [
    _GRANITE,
    variant(
        _GRANITE, "rope", dtype="bfloat16", length=71,
        config={**_GRANITE_ODD, "position_embedding_type": "rope", "rope_parameters": _ROPE,
                "tie_word_embeddings": False, "num_local_experts": 5, "num_experts_per_tok": 3},
        ablations={**_MULTIPLIERS, "rope": {"position_embedding_type": "nope"},
                   "rope_theta": {"rope_parameters": {**_ROPE, "rope_theta": 100.0}}},
    ),
    variant(_GRANITE, "dense", config={**_GRANITE_ODD, **_DENSE}, length=83, ablations=_MULTIPLIERS),
    variant(_GRANITE, "groups", dtype="bfloat16", config={**_GRANITE_ODD, **_DENSE, "mamba_n_groups": 2}, length=77,
            ablations={"groups": swap_groups, "norm per group": norm_over_all}),
    variant(
        _GRANITE, "biases", dtype="bfloat16", length=74,
        config={**_GRANITE_ODD, **_DENSE, "attention_bias": True, "mamba_conv_bias": False, "mamba_proj_bias": True,
                "mamba_expand": 1, "mamba_n_heads": 3, "num_local_experts": 4, "num_experts_per_tok": 1,
                "intermediate_size": 14,
                # A bias only on the keys would cancel in the softmax without RoPE.
                "position_embedding_type": "rope", "rope_parameters": _ROPE},
        ablations={name: zero(f"{name}.bias") for name in
                   ("q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "out_proj")},
    ),
    # Without any attention layer, and `layer_types` at its default (all Mamba-2).
    variant(_GRANITE, "mamba_only", length=79,
            config={**_GRANITE_ODD, **_DENSE, "layer_types": None, "num_hidden_layers": 2}, ablations={},
            cached="unsupported", note="the cache of transformers 5.23.0 wants at least one attention layer"),
    variant(_GRANITE, "bf16", dtype="bfloat16", config={**_GRANITE_ODD, "num_local_experts": 4}),
    variant(_GRANITE, "f16", dtype="float16", config={**_GRANITE_ODD, "num_local_experts": 4}),
    # Like some checkpoints on the hub: bf16 with the recurrent parameters in f32.
    variant(_GRANITE, "mixed", dtype="bfloat16", keep_f32=("A_log", "dt_bias", ".D"), length=70,
            config={**_GRANITE_ODD, **_DENSE}, ablations={}),
]

# ------------------------------------------------------------------------------------------------ xlstm

_XLSTM = Case(
    "xlstm", "plain",
    dict(vocab_size=112, hidden_size=64, num_hidden_layers=2, num_heads=2, qk_dim_factor=1.0, v_dim_factor=1.0,
         ffn_proj_factor=1.0, ffn_round_up_to_multiple_of=16, chunk_size=64),
    length=93,
    ablations={
        "gate_soft_cap": {"gate_soft_cap": 2.0}, "output_logit_soft_cap": {"output_logit_soft_cap": 3.0},
        "norm_eps": {"norm_eps": 0.1}, "igate": zero("igate_preact.bias"), "fgate": zero("fgate_preact.bias"),
    },
)

_XLSTM_ODD = dict(
    vocab_size=97, hidden_size=48, num_heads=3, qk_dim_factor=0.5, ffn_proj_factor=1.3, ffn_round_up_to_multiple_of=8,
)
# The cache of transformers rounds the query/key width up to a multiple of 64; the layer does not.
_NO_CACHE = dict(
    cached="unsupported", note="transformers 5.23.0 cannot decode this config with its cache: the cache rounds the"
    " q/k and v widths up to a multiple of 64",
)

XLSTM = [
    _XLSTM,
    variant(_XLSTM, "odd", config=_XLSTM_ODD, length=71, **_NO_CACHE),
    # hidden * ffn_proj_factor = 48.48 becomes 48 and not 64: (48.48 + 15) // 16 * 16.
    variant(
        _XLSTM, "biases", length=77, **_NO_CACHE,
        config={**_XLSTM_ODD, "use_bias": True, "ffn_proj_factor": 1.01, "ffn_round_up_to_multiple_of": 16,
                "chunk_size": 16, "num_heads": 4, "qk_dim_factor": 0.75},
        ablations={name: zero(f"{name}.bias") for name in
                   (".q", ".k", ".v", "ogate_preact", "out_proj", "multihead_norm", "norm_mlstm", "norm_ffn",
                    "proj_up_gate", "proj_up", "proj_down")},
    ),
    variant(
        _XLSTM, "caps", length=85, **_NO_CACHE,
        config={**_XLSTM_ODD, "gate_soft_cap": 3.0, "output_logit_soft_cap": 4.0, "num_heads": 1, "v_dim_factor": 0.75,
                "chunk_size": 32, "add_out_norm": False, "norm_eps": 1e-2, "eps": 1.0},
        ablations={
            "gate_soft_cap": {"gate_soft_cap": 15.0}, "output_logit_soft_cap": {"output_logit_soft_cap": 30.0},
            "norm_eps": {"norm_eps": 1e-6}, "eps": {"eps": 1e-6},
        },
    ),
    # Projections stored as one tensor where they read the same.
    variant(
        _XLSTM, "fused", length=70, **_NO_CACHE,
        config={**_XLSTM_ODD, "vocab_size": 61, "hidden_size": 36, "weight_mode": "fused", "use_bias": True, "qk_dim_factor": 0.75, "num_hidden_layers": 1},
        ablations={name: zero(name) for name in ("qkv_opreact.bias", "ifgate_preact.bias", "proj_up_gate_z.bias")},
    ),
    # Gates like those of a trained model (igate bias -10: the exponent of the stabilizer is far from 0).
    variant(_XLSTM, "small_igate", dtype="bfloat16", config=_XLSTM_ODD, length=74, gains={"igate_preact.bias": 8.0}, **_NO_CACHE),
    variant(_XLSTM, "bf16", dtype="bfloat16", config=_XLSTM_ODD, **_NO_CACHE),
    variant(_XLSTM, "f16", dtype="float16", config=_XLSTM_ODD, **_NO_CACHE),
]

# ------------------------------------------------------------------------------------------------ bamba

_BAMBA = Case(
    "bamba", "plain",
    dict(vocab_size=112, hidden_size=48, intermediate_size=40, num_hidden_layers=3, attn_layer_indices=[1],
         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, mamba_n_heads=6, mamba_d_head=16,
         mamba_d_state=16, mamba_n_groups=1, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=32,
         rope_parameters={**_ROPE, "partial_rotary_factor": 0.5}),
    length=96,
    ablations={
        "rope_theta": {"rope_parameters": {**_ROPE, "rope_theta": 100.0, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor": {"rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0}},
    },
)
_BAMBA_ODD = dict(
    vocab_size=97, hidden_size=36, intermediate_size=40, num_attention_heads=3, num_key_value_heads=1,
    mamba_n_heads=6, mamba_d_head=12, mamba_d_state=10, mamba_n_groups=2, mamba_d_conv=3, mamba_chunk_size=64,
)

BAMBA = [
    _BAMBA,
    variant(
        _BAMBA, "groups", dtype="bfloat16", length=71, config={**_BAMBA_ODD, "attn_layer_indices": [0, 2], "tie_word_embeddings": True},
        ablations={"groups": swap_groups, "norm per group": norm_over_all},
    ),
    variant(
        _BAMBA, "biases", dtype="bfloat16", length=77,
        config={**_BAMBA_ODD, "attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True,
                "mamba_conv_bias": False, "mamba_n_groups": 1, "attn_layer_indices": [2]},
        ablations={name: zero(f"{name}.bias") for name in
                   ("q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "out_proj", "gate_proj", "up_proj",
                    "down_proj")},
    ),
]

CASES = GRANITE + MAMBA2 + MAMBA + XLSTM + FALCON_MAMBA + BAMBA
