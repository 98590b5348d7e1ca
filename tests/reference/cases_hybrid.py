"""Hybrids of attention with Mamba or Mamba-2 that came later: nemotron_h, falcon_h1, jamba."""

from cases import Case, variant, zero
from cases_recurrent import norm_over_all, swap_groups

# ------------------------------------------------------------------------------------------- nemotron_h

_NEMOTRON = Case(
    "nemotron_h", "plain",
    dict(vocab_size=112, hidden_size=48, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
         layers_block_type=["linear_attention", "mlp", "full_attention", "mlp"], max_position_embeddings=256,
         ssm_state_size=16, mamba_num_heads=6, mamba_head_dim=16, n_groups=2, conv_kernel=4, chunk_size=32),
    length=96,
    ablations={
        "mlp_hidden_act": {"mlp_hidden_act": "relu"}, "groups": swap_groups, "norm per group": norm_over_all,
        "time_step_min": {"time_step_min": 0.2}, "D": zero(".D"), "dt_bias": zero("dt_bias"),
    },
)
_NEMOTRON_ODD = dict(
    vocab_size=97, hidden_size=36, intermediate_size=44, num_attention_heads=3, num_key_value_heads=1, head_dim=20,
    ssm_state_size=10, mamba_num_heads=6, mamba_head_dim=7, n_groups=3, conv_kernel=3, chunk_size=64,
)
_NEMOTRON_MOE = dict(
    layers_block_type=["linear_attention", "moe", "full_attention", "moe"], n_routed_experts=6, num_experts_per_tok=2,
    moe_intermediate_size=14, moe_shared_expert_intermediate_size=22, routed_scaling_factor=2.5,
)


_NEMOTRON_SMALL = {**_NEMOTRON_ODD, **_NEMOTRON_MOE, "vocab_size": 61, "hidden_size": 28, "mlp_bias": True, "n_routed_experts": 4}
_EXPERT_BIASES = {f"{name}.bias": zero(f"shared_experts.{name}.bias") for name in ("up_proj", "down_proj")}


def no_selection_bias(model):
    """Experts are chosen by their scores alone."""
    hit = [m.e_score_correction_bias.zero_() for m in model.modules() if hasattr(m, "e_score_correction_bias")]
    assert hit


NEMOTRON_H = [
    _NEMOTRON,
    variant(
        _NEMOTRON, "moe", dtype="bfloat16", config={**_NEMOTRON_ODD, **_NEMOTRON_MOE}, length=77,
        ablations={
            "norm_topk_prob": {"norm_topk_prob": False}, "routed_scaling_factor": {"routed_scaling_factor": 1.0},
            "num_experts_per_tok": {"num_experts_per_tok": 3}, "selection bias": no_selection_bias,
            "shared experts": zero("shared_experts.down_proj"),
        },
    ),
    # Experts of the best groups, whose weights are as the sigmoids are.
    variant(
        _NEMOTRON, "groups", dtype="bfloat16", length=71,
        config={**_NEMOTRON_ODD, **_NEMOTRON_MOE, "n_routed_experts": 8, "n_group": 4, "topk_group": 2,
                "num_experts_per_tok": 3, "norm_topk_prob": False, "routed_scaling_factor": 1.0},
        ablations={"topk_group": {"topk_group": 4}, "n_group": {"n_group": 2}, "norm_topk_prob": {"norm_topk_prob": True},
                   "selection bias": no_selection_bias},
    ),
    # Experts between two projections, to a narrower stream and back; the shared expert is beside them.
    variant(
        _NEMOTRON, "latent", length=70,
        config={**_NEMOTRON_ODD, **_NEMOTRON_MOE, "vocab_size": 61, "hidden_size": 28, "moe_latent_size": 20, "layers_block_type":
                ["linear_attention", "moe", "full_attention"]},
        ablations={"to latent": zero("fc1_latent_proj"), "from latent": zero("fc2_latent_proj"),
                   "shared experts": zero("shared_experts.down_proj"), "selection bias": no_selection_bias,
                   "routed_scaling_factor": {"routed_scaling_factor": 1.0}},
    ),
    # Biases of the shared expert, and of the projections around the others.
    variant(_NEMOTRON, "expert_biases", dtype="bfloat16", length=70, config={**_NEMOTRON_SMALL, "layers_block_type": ["moe", "full_attention"]},
            ablations=_EXPERT_BIASES),
    variant(
        _NEMOTRON, "latent_biases", dtype="bfloat16", length=70,
        config={**_NEMOTRON_SMALL, "layers_block_type": ["full_attention", "moe"], "moe_latent_size": 20},
        ablations={**_EXPERT_BIASES, "fc1": zero("fc1_latent_proj.bias"), "fc2": zero("fc2_latent_proj.bias")},
    ),
    variant(
        _NEMOTRON, "biases", length=74,
        config={**_NEMOTRON_ODD, "use_bias": True, "mlp_bias": True, "use_conv_bias": False, "n_groups": 1,
                "mlp_hidden_act": "silu", "layers_block_type": ["mlp", "linear_attention", "full_attention"]},
        ablations={name: zero(f"{name}.bias") for name in ("in_proj", "out_proj", "up_proj", "down_proj")},
    ),
    variant(_NEMOTRON, "bf16", dtype="bfloat16", length=70, ablations={}, config={**_NEMOTRON_ODD, **_NEMOTRON_MOE}),
]

# -------------------------------------------------------------------------------------------- falcon_h1

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MULTIPLIERS = dict(
    embedding_multiplier=3.0, lm_head_multiplier=0.5, key_multiplier=0.7, attention_in_multiplier=1.4,
    attention_out_multiplier=0.6, ssm_in_multiplier=1.3, ssm_out_multiplier=0.4, mlp_multipliers=[1.5, 0.3],
    ssm_multipliers=[0.8, 1.3, 0.6, 1.6, 0.5],
)
_PLAIN = {key: 1.0 if isinstance(value, float) else [1.0] * len(value) for key, value in MULTIPLIERS.items()}


def _each(multipliers):
    """Each multiplier by itself, and each element of those that are lists."""
    changes = {}
    for key, value in multipliers.items():
        if isinstance(value, float):
            changes[key] = {key: 1.0}
            continue
        for index in range(len(value)):
            changes[f"{key}[{index}]"] = {key: [*value[:index], 1.0, *value[index + 1:]]}
    return changes


def one_group(model):
    """One gated norm over the whole inner width."""
    hit = [setattr(m, "n_groups", 1) for m in model.modules() if hasattr(m, "norm_before_gate")]
    assert hit


_FALCON_H1 = Case(
    "falcon_h1", "plain",
    dict(vocab_size=112, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
         num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, mamba_d_ssm=64, mamba_n_heads=4,
         mamba_d_head=16, mamba_n_groups=1, mamba_d_state=16, mamba_d_conv=4, mamba_chunk_size=32, mamba_rms_norm=False,
         rope_parameters=_ROPE, **MULTIPLIERS),
    length=96,
    ablations={**_each(MULTIPLIERS), "rope_theta": {"rope_parameters": {**_ROPE, "rope_theta": 100.0}}},
    gains={"embed_tokens": 1 / 3.0},
)
_FALCON_H1_ODD = dict(
    vocab_size=97, hidden_size=36, intermediate_size=44, num_attention_heads=3, num_key_value_heads=1, mamba_d_ssm=42,
    mamba_n_heads=6, mamba_d_head=7, mamba_n_groups=3, mamba_d_state=10, mamba_d_conv=3, mamba_chunk_size=64,
)


FALCON_H1 = [
    _FALCON_H1,
    # The gated norm after the gate, over each group.
    variant(_FALCON_H1, "norm_after", length=71, ablations=_each(MULTIPLIERS),
            config={**_FALCON_H1_ODD, "mamba_rms_norm": True, "mamba_norm_before_gate": False}),
    # The gated norm before the gate, as is the default.
    variant(_FALCON_H1, "norm_before", dtype="bfloat16", length=70,
            config={**_FALCON_H1_ODD, "vocab_size": 61, "num_hidden_layers": 1, "mamba_rms_norm": True},
            ablations={"norm_before_gate": {"mamba_norm_before_gate": False}, "norm per group": one_group}),
    variant(
        _FALCON_H1, "biases", length=74,
        config={**_FALCON_H1_ODD, "attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True, "projectors_bias": True,
                "mamba_conv_bias": False, "mamba_n_groups": 1},
        ablations={name: zero(f"{name}.bias") for name in
                   ("q_proj", "v_proj", "o_proj", "in_proj", "out_proj", "gate_proj", "up_proj", "down_proj")},
    ),
    # Sizes by expansion, and no multipliers.
    variant(_FALCON_H1, "expand", dtype="bfloat16", length=70, ablations={}, gains={},
            config={**_FALCON_H1_ODD, **_PLAIN, "mamba_d_ssm": None, "mamba_expand": 2, "mamba_d_head": "auto"}),
]

# ------------------------------------------------------------------------------------------------ jamba

_JAMBA = Case(
    "jamba", "plain",
    dict(vocab_size=112, hidden_size=40, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=2, max_position_embeddings=256, num_experts=4, num_experts_per_tok=2, expert_layer_period=2,
         expert_layer_offset=1, attn_layer_period=4, attn_layer_offset=2, mamba_d_state=8, mamba_d_conv=4, mamba_expand=2,
         rms_norm_eps=1e-5),
    length=96,
    ablations={"num_experts_per_tok": {"num_experts_per_tok": 3}, "rms_norm_eps": {"rms_norm_eps": 0.1},
               "dt_proj.bias": zero("dt_proj.bias"), "D": zero(".D")},
)
_JAMBA_ODD = dict(
    vocab_size=97, hidden_size=36, intermediate_size=20, num_attention_heads=3, num_key_value_heads=1, mamba_d_state=5,
    mamba_d_conv=3, mamba_dt_rank=5, num_hidden_layers=3, attn_layer_period=3, attn_layer_offset=1,
)


def norms_of_ones(*names):
    """Norms without their weights."""

    def change(model):
        hit = [p.fill_(1.0) for n, p in model.named_parameters() if any(name in n for name in names)]
        assert hit

    return change


JAMBA = [
    _JAMBA,
    variant(_JAMBA, "odd", dtype="bfloat16", config={**_JAMBA_ODD, "expert_layer_period": 1, "expert_layer_offset": 0, "num_experts": 5},
            length=71, ablations={name: norms_of_ones(name) for name in ("dt_layernorm", "b_layernorm", "c_layernorm")}),
    # One expert is a dense network.
    variant(_JAMBA, "dense", config={**_JAMBA_ODD, "num_experts": 1, "num_experts_per_tok": 1, "tie_word_embeddings": True},
            length=74, ablations={}),
    variant(_JAMBA, "biases", length=77,
            config={**_JAMBA_ODD, "mamba_proj_bias": True, "mamba_conv_bias": False, "mamba_expand": 1},
            ablations={"in_proj.bias": zero("in_proj.bias"), "out_proj.bias": zero("out_proj.bias")}),
]

CASES = NEMOTRON_H + FALCON_H1 + JAMBA
