"""MiniMax-Text-01: lightning attention and softmax attention, experts, and a residual stream that is normed on its way."""

from cases import Case, variant


def swap_heads(model):
    """Exchange the decays of the first and the last head."""
    for module in model.modules():
        if hasattr(module, "slope_rate"):
            for name in ("slope_rate", "query_decay", "key_decay"):
                buffer = getattr(module, name)
                buffer.copy_(buffer.flip(0).clone())
            module.diagonal_decay.copy_(module.diagonal_decay.flip(1).clone())


def open_gates(model):
    """Every output gate lets half of everything through."""
    for name, parameter in model.named_parameters():
        if "output_gate" in name:
            parameter.zero_()


_ROPE = {"rope_type": "default", "rope_theta": 1000000.0}
_MINIMAX = Case(
    "minimax", "plain",
    dict(vocab_size=112, hidden_size=48, intermediate_size=10, num_hidden_layers=3, num_attention_heads=4,
         num_key_value_heads=2, head_dim=12, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
         num_local_experts=4, num_experts_per_tok=2, block_size=16, rope_parameters=_ROPE,
         layer_types=["linear_attention", "linear_attention", "full_attention"],
         full_attn_alpha_factor=1.4, full_attn_beta_factor=0.8, linear_attn_alpha_factor=0.7, linear_attn_beta_factor=1.2,
         mlp_alpha_factor=1.1, mlp_beta_factor=0.9),
    length=96,
    ablations={
        "decays": swap_heads, "gate": open_gates, "rms_norm_eps": {"rms_norm_eps": 0.1},
        "rope_theta": {"rope_parameters": {**_ROPE, "rope_theta": 100.0}},
        **{key: {key: 2.0} for key in (
            "full_attn_alpha_factor", "full_attn_beta_factor", "linear_attn_alpha_factor", "linear_attn_beta_factor",
            "mlp_alpha_factor", "mlp_beta_factor")},
    },
)

MINIMAX = [
    _MINIMAX,
    # Heads that are neither a power of two nor as wide as hidden / heads, one expert, a tied head, a window.
    variant(_MINIMAX, "odd", length=71,
            config=dict(vocab_size=97, hidden_size=40, num_attention_heads=3, num_key_value_heads=1, head_dim=18,
                        num_local_experts=3, num_experts_per_tok=1, block_size=32, tie_word_embeddings=True,
                        layer_types=["full_attention", "linear_attention", "linear_attention"], sliding_window=9,
                        hidden_act="gelu"),
            ablations={"decays": swap_heads, "gate": open_gates, "window": {"sliding_window": None}}),
    # The factors and the kinds of layers that a config without these fields has.
    variant(_MINIMAX, "defaults", length=83,
            config=dict(layer_types=None, num_hidden_layers=2, **{key: 1 for key in (
                "full_attn_alpha_factor", "full_attn_beta_factor", "linear_attn_alpha_factor",
                "linear_attn_beta_factor", "mlp_alpha_factor", "mlp_beta_factor")}),
            ablations={"gate": open_gates}),
]

CASES = MINIMAX
