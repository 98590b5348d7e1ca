"""Families with transformer blocks that layers share: zamba2, zamba."""

from cases import Case, variant, zero
from cases_recurrent import reset, swap_groups


def other_block(model):
    """Exchanges the two shared blocks' queries: shows which layers use which."""
    blocks = {id(p): p for name, p in model.named_parameters() if name.endswith("self_attn.q_proj.weight")}
    one, two = blocks.values()
    one.data, two.data = two.data.clone(), one.data.clone()


def no_embeddings(model):
    """Zeroes the half of the shared norm's weight that multiplies the embeddings."""
    for name, parameter in model.named_parameters():
        if name.endswith(("shared_transformer.input_layernorm.weight", "shared_transf.input_layernorm.weight")):
            parameter[len(parameter) // 2:] = 0.0


_ZAMBA2 = Case(
    "zamba2", "adapters",
    dict(vocab_size=48, hidden_size=16, num_hidden_layers=4, layers_block_type=["hybrid", "linear_attention", "hybrid", "hybrid"],
         intermediate_size=18, num_attention_heads=4, num_mem_blocks=2, use_shared_attention_adapter=True, adapter_rank=3,
         use_mem_rope=True, max_position_embeddings=256, mamba_d_state=6, mamba_expand=1, mamba_ngroups=2, n_mamba_heads=4,
         rope_parameters={"rope_type": "default", "rope_theta": 1000.0}),
    # Without residual connections within the shared block, sharper attention amplifies every rounding.
    length=72, gains={"q_proj.weight": 0.8, "k_proj.weight": 0.8},
    ablations={
        "blocks": other_block, "embeddings": no_embeddings, "linear": zero(".linear.weight"), "groups": swap_groups,
        "attention adapters": zero("linear_k_adapter_list"), "adapters": zero("gate_up_proj_adapter_list"),
        "rope": {"use_mem_rope": False}, "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}},
        "activation": {"hidden_act": "silu"}, "rms_norm_eps": {"rms_norm_eps": 0.1},
    },
)
# One block, grouped heads, biases, and steps that the lower bound stops.
_PLAIN = dict(
    num_hidden_layers=3, layers_block_type=["linear_attention", "hybrid", "hybrid"], num_key_value_heads=2, num_mem_blocks=1,
    use_shared_attention_adapter=False, use_mem_rope=False, add_bias_linear=True, time_step_min=0.3, mamba_ngroups=1,
    mamba_d_conv=3, adapter_rank=5, tie_word_embeddings=False,
)

ZAMBA2 = [
    _ZAMBA2,
    variant(
        _ZAMBA2, "plain", length=77, config=_PLAIN, cached="other",
        ablations={"time_step_min": reset("time_step_limit", (0.0, float("inf"))), "biases": zero("gate_up_proj.bias"),
                   "adapters": zero("gate_up_proj_adapter_list")},
        note="time_step_min is active. The logits are those of the full forward, which bounds softplus(dt + dt_bias) at every"
             " position. The single-token decode of transformers 5.24.0 does not, so its cached greedy tokens differ; the greedy"
             " tokens here come from full recomputation.",
    ),
    variant(_ZAMBA2, "bf16", dtype="bfloat16", seed=18, ablations={}, config={"mamba_ngroups": 1, "num_hidden_layers": 3, "layers_block_type": ["hybrid", "linear_attention", "linear_attention"]}),
]

_ZAMBA = Case(
    "zamba", "plain",
    dict(vocab_size=48, hidden_size=16, num_hidden_layers=4, layers_block_type=["linear_attention", "hybrid", "linear_attention", "hybrid"],
         intermediate_size=22, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, n_mamba_heads=2,
         mamba_d_state=5, mamba_dt_rank=3),
    length=76,
    ablations={"embeddings": no_embeddings, "linear": zero(".linear.weight"), "D": zero(".D"), "dt": zero("dt_proj_bias"),
               "activation": {"hidden_act": "silu"}, "rms_norm_eps": {"rms_norm_eps": 0.1}},
)

ZAMBA = [
    _ZAMBA,
    variant(_ZAMBA, "heads", length=71, ablations={"biases": zero("in_proj.bias")},
            config=dict(num_hidden_layers=3, layers_block_type=["hybrid", "linear_attention", "hybrid"], n_mamba_heads=3, hidden_size=12,
                        attention_head_dim=10, num_key_value_heads=4, mamba_d_state=17, mamba_conv_bias=False, mamba_proj_bias=True,
                        mamba_d_conv=3, tie_word_embeddings=False)),
    variant(_ZAMBA, "bf16", dtype="bfloat16", ablations={}),
]

CASES = ZAMBA + ZAMBA2
