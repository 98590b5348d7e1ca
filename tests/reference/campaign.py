"""Makes random checkpoints of every family, in addition to the committed ones, as fixtures in a separate folder.

    python campaign.py OUT --count 100 --seed 1
    KINGLET_FIXTURES=OUT cargo test --release -p kinglet-tests --test conformance -- reference older_spelling

Draws the family, its sizes (few of them multiples of anything), biases, multipliers, windows, tied heads, the stored type and the number of
tokens. Each case is made like the committed ones by `make.py`, from seeds whose results don't depend on rounding.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
import transformers

import make
from cases import Case

ROPE = [
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "default", "rope_theta": 1000000.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 32.0, "beta_slow": 1.0},
]
FACTORS = [
    dict(embedding_multiplier=6.0, attention_multiplier=0.4, residual_multiplier=0.3, logits_scaling=4.0),
    dict(embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.7, logits_scaling=2.0),
]


def flag(draw, chance=0.35):
    return draw.random() < chance


def attention(draw, free_head_dim):
    """Sizes of attention; if the config has no head_dim, the heads divide the hidden size."""
    heads = draw.choice([1, 2, 3, 4, 6, 8])
    head_dim = 2 * draw.choice([4, 5, 6, 8, 10, 12, 15, 16, 20, 32])
    config = dict(num_attention_heads=heads, num_key_value_heads=draw.choice([n for n in range(1, heads + 1) if heads % n == 0]))
    if free_head_dim:
        # transformers requires a hidden size that is divisible by the heads even then.
        config.update(head_dim=head_dim, hidden_size=heads * draw.randrange(17 // heads + 1, 150 // heads))
    else:
        config["hidden_size"] = heads * head_dim
    return config


def mamba2_inner(draw):
    """Heads, head width, groups, expansion and the resulting hidden size."""
    expand = draw.choice([1, 2])
    groups = draw.choice([1, 1, 2, 3])
    heads = groups * draw.choice([1, 2, 3, 5])
    head_dim = draw.choice([6, 8, 10, 12, 16, 20, 32, 64])
    if heads * head_dim % expand:
        head_dim += 1
    if heads * head_dim % expand:
        heads *= 2
    return expand, groups, heads, head_dim, heads * head_dim // expand


def dense(family, draw):
    config = dict(vocab_size=draw.randrange(50, 400), num_hidden_layers=draw.choice([1, 2, 3]), intermediate_size=draw.randrange(9, 200),
                  max_position_embeddings=1024, rms_norm_eps=draw.choice([1e-5, 1e-6]), tie_word_embeddings=flag(draw),
                  rope_parameters=draw.choice(ROPE))
    config.update(attention(draw, family in ("llama", "mistral", "qwen3", "qwen3_moe") and flag(draw, 0.6)))
    window = draw.randrange(5, 80)
    if family in ("llama", "granite"):
        config.update(attention_bias=flag(draw), mlp_bias=flag(draw))
    if family == "granite":
        config.update(draw.choice(FACTORS))
    if family in ("mistral", "mixtral"):
        config["sliding_window"] = window if flag(draw, 0.6) else None
    if family in ("qwen2", "qwen3"):
        if flag(draw):
            config.update(use_sliding_window=True, sliding_window=window, max_window_layers=draw.choice([0, 1]))
        else:
            config.update(use_sliding_window=False, max_window_layers=1)
    if family == "qwen3" or family == "qwen3_moe":
        config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
        config["attention_bias"] = flag(draw)
    experts = draw.randrange(2, 14)
    active = draw.randrange(1, min(experts, 6) + 1)
    if family == "mixtral":
        # Its config has no head_dim, which rope types other than the default need.
        config.update(rope_parameters=draw.choice(ROPE[:2]), num_local_experts=experts, num_experts_per_tok=active, intermediate_size=draw.randrange(9, 70))
    if family in ("qwen3_moe", "olmoe"):
        config.update(num_experts=experts, num_experts_per_tok=active, norm_topk_prob=flag(draw, 0.5))
    if family == "qwen3_moe":
        config.update(moe_intermediate_size=draw.randrange(9, 70), mlp_only_layers=[0] if flag(draw, 0.2) else [])
    if family == "olmoe":
        config.update(intermediate_size=draw.randrange(9, 70), clip_qkv=draw.choice([None, 1.2]))
    return config


def hybrid(family, draw):
    expand, groups, heads, head_dim, hidden = mamba2_inner(draw)
    config = dict(vocab_size=draw.randrange(50, 400), max_position_embeddings=1024, rms_norm_eps=1e-5, tie_word_embeddings=flag(draw),
                  mamba_n_heads=heads, mamba_d_head=head_dim, mamba_d_state=draw.choice([4, 7, 10, 16, 24, 32, 64, 128]),
                  mamba_n_groups=groups, mamba_d_conv=draw.choice([2, 3, 4]), mamba_expand=expand,
                  mamba_chunk_size=draw.choice([32, 64, 256]), mamba_conv_bias=flag(draw, 0.7), mamba_proj_bias=flag(draw),
                  attention_bias=flag(draw), hidden_size=hidden)
    # Heads of attention divide the hidden size, and half of each is rotated in pairs.
    fits = [n for n in range(1, 9) if hidden % (4 * n) == 0 and hidden // n <= 128]
    if not fits:
        return None
    config["num_attention_heads"] = draw.choice(fits)
    config["num_key_value_heads"] = draw.choice([n for n in range(1, 9) if config["num_attention_heads"] % n == 0])
    layers = draw.choice([2, 3, 4])
    config["num_hidden_layers"] = layers
    where = sorted(draw.sample(range(layers), draw.choice([1, 1, 2])))
    if family == "bamba":
        config.update(attn_layer_indices=where, mlp_bias=flag(draw), intermediate_size=draw.randrange(9, 200),
                      rope_parameters={**ROPE[0], "partial_rotary_factor": 0.5})
        return config
    config.update(draw.choice(FACTORS))
    config["layer_types"] = ["full_attention" if i in where else "linear_attention" for i in range(layers)]
    if flag(draw, 0.6):
        config.update(position_embedding_type="rope", rope_parameters=draw.choice(ROPE))
    else:
        config.update(position_embedding_type="nope")
    config["shared_intermediate_size"] = draw.randrange(9, 120)
    experts = draw.choice([0, 0, 3, 5, 8, 12])
    active = draw.randrange(1, min(experts, 6) + 1) if experts else 0
    config.update(num_local_experts=experts, num_experts_per_tok=active,
                  intermediate_size=draw.randrange(9, 60) if experts else config["shared_intermediate_size"])
    return config


def recurrent(family, draw):
    config = dict(vocab_size=draw.randrange(50, 400), num_hidden_layers=draw.choice([1, 2, 3]))
    if family == "xlstm":
        heads = draw.choice([1, 2, 3, 4, 6, 8])
        hidden = heads * 4 * draw.choice([2, 3, 4, 5, 8, 12, 16])
        config.update(hidden_size=hidden, num_heads=heads, qk_dim_factor=draw.choice([0.5, 0.75, 1.0]), v_dim_factor=draw.choice([0.75, 1.0]),
                      ffn_proj_factor=draw.choice([1.0, 1.3, 2.667]), ffn_round_up_to_multiple_of=draw.choice([1, 8, 64]),
                      chunk_size=draw.choice([16, 32, 64]), use_bias=flag(draw), add_out_norm=flag(draw, 0.7),
                      gate_soft_cap=draw.choice([3.0, 15.0]), output_logit_soft_cap=draw.choice([4.0, 30.0]))
        return config
    config.update(use_conv_bias=flag(draw, 0.7), use_bias=flag(draw), conv_kernel=draw.choice([2, 3, 4]), tie_word_embeddings=flag(draw))
    if family == "mamba2":
        expand, groups, heads, head_dim, hidden = mamba2_inner(draw)
        config.update(expand=expand, n_groups=groups, num_heads=heads, head_dim=head_dim, hidden_size=hidden,
                      state_size=draw.choice([4, 7, 10, 16, 24, 32, 64, 128]), chunk_size=draw.choice([16, 32, 64, 256]))
        return config
    config.update(hidden_size=draw.randrange(17, 150), expand=draw.choice([1, 2, 3]), state_size=draw.choice([3, 5, 8, 9, 16, 32]),
                  time_step_rank=draw.randrange(1, 20))
    config["intermediate_size"] = config["expand"] * config["hidden_size"]
    if family == "falcon_mamba":
        config["mixer_rms_eps"] = draw.choice([1e-6, 0.25])
    return config


def common(draw):
    """Fields of most newer families."""
    return dict(vocab_size=draw.randrange(50, 300), max_position_embeddings=1024, tie_word_embeddings=flag(draw),
                hidden_size=draw.randrange(17, 110))


def heads_of(draw, config, odd=True):
    """Heads of attention with a width of their own."""
    heads = draw.choice([1, 2, 3, 4, 6])
    config.update(num_attention_heads=heads, num_key_value_heads=draw.choice([n for n in range(1, heads + 1) if heads % n == 0]),
                  head_dim=2 * draw.choice([4, 5, 6, 8, 10, 16, 20]))
    return config


def kinds(draw, others, layers, attention="full_attention"):
    """Kinds of layers, of which at least one is attention and one is not."""
    chosen = [draw.choice([others, others, attention]) for _ in range(layers)]
    first, second = draw.sample(range(layers), 2)
    chosen[first], chosen[second] = others, attention
    return chosen


def experts_of(draw):
    experts = draw.randrange(2, 12)
    return experts, draw.randrange(1, min(experts, 5) + 1)


def delta(family, draw):
    layers = draw.choice([2, 3, 4])
    key_heads = draw.choice([1, 2, 3, 4])
    config = heads_of(draw, dict(
        common(draw), num_hidden_layers=layers, layer_types=kinds(draw, "linear_attention", layers),
        intermediate_size=draw.randrange(9, 120), rms_norm_eps=draw.choice([1e-5, 1e-6]), attention_bias=flag(draw),
        linear_conv_kernel_dim=draw.choice([2, 3, 4, 5]), linear_key_head_dim=draw.randrange(4, 40),
        linear_value_head_dim=draw.randrange(4, 40), linear_num_key_heads=key_heads,
        linear_num_value_heads=key_heads * draw.choice([1, 2, 3]),
        rope_parameters={**draw.choice(ROPE[:2]), "partial_rotary_factor": draw.choice([0.25, 0.5, 1.0])}))
    rotated = int(config["head_dim"] * config["rope_parameters"]["partial_rotary_factor"])
    if rotated % 2 or not rotated:
        return None
    if family != "qwen3_5_text":
        experts, active = experts_of(draw)
        config.update(num_experts=experts, num_experts_per_tok=active, moe_intermediate_size=draw.randrange(5, 40),
                      shared_expert_intermediate_size=draw.randrange(5, 40))
    if family == "qwen3_next":
        config.update(norm_topk_prob=flag(draw, 0.5), decoder_sparse_step=draw.choice([1, 1, 2]), mlp_only_layers=draw.choice([[], [0], [1]]))
    return config


def nemotron(family, draw):
    groups = draw.choice([1, 2, 3])
    blocks = ["linear_attention", "full_attention"] + draw.choices(["linear_attention", "mlp", "moe", "full_attention"], k=draw.choice([1, 2, 3]))
    draw.shuffle(blocks)
    expert_groups = draw.choice([1, 2])
    experts = expert_groups * draw.choice([3, 4, 5])
    config = heads_of(draw, dict(
        common(draw), layers_block_type=blocks, intermediate_size=draw.randrange(9, 120), ssm_state_size=draw.choice([4, 7, 16, 32, 64]),
        n_groups=groups, mamba_num_heads=groups * draw.choice([1, 2, 3, 4]), mamba_head_dim=draw.choice([6, 7, 8, 16, 20, 32]),
        conv_kernel=draw.choice([2, 3, 4]), chunk_size=draw.choice([32, 64, 128]), use_conv_bias=flag(draw, 0.7), use_bias=flag(draw),
        mlp_bias=flag(draw), attention_bias=flag(draw), mlp_hidden_act=draw.choice(["relu2", "relu2", "silu"]),
        time_step_min=draw.choice([0.001, 0.05]), n_routed_experts=experts, num_experts_per_tok=draw.choice([1, 2, 3]), n_group=expert_groups,
        topk_group=draw.randrange(1, expert_groups + 1), moe_intermediate_size=draw.randrange(5, 40),
        moe_shared_expert_intermediate_size=draw.randrange(5, 40), norm_topk_prob=flag(draw, 0.5),
        routed_scaling_factor=draw.choice([1.0, 2.5])))
    if flag(draw):
        config["moe_latent_size"] = draw.randrange(5, 40)
    return config


def falcon_h1(family, draw):
    groups = draw.choice([1, 2, 3])
    heads, width = groups * draw.choice([1, 2, 3]), draw.choice([6, 7, 8, 16, 20])
    factor = lambda: draw.choice([0.6, 0.8, 1.0, 1.3])
    config = heads_of(draw, dict(
        common(draw), num_hidden_layers=draw.choice([1, 2, 3]), intermediate_size=draw.randrange(9, 120), rms_norm_eps=1e-5,
        mamba_d_ssm=heads * width, mamba_n_heads=heads, mamba_d_head=width, mamba_n_groups=groups, mamba_d_state=draw.choice([4, 7, 16, 32]),
        mamba_d_conv=draw.choice([2, 3, 4]), mamba_chunk_size=draw.choice([32, 64, 128]), mamba_rms_norm=flag(draw, 0.5),
        mamba_norm_before_gate=flag(draw, 0.5), attention_bias=flag(draw), mlp_bias=flag(draw), mamba_proj_bias=flag(draw),
        projectors_bias=flag(draw), mamba_conv_bias=flag(draw, 0.7), rope_parameters=draw.choice(ROPE[:2]), embedding_multiplier=1.0,
        lm_head_multiplier=factor(), key_multiplier=factor(), attention_in_multiplier=factor(), attention_out_multiplier=factor(),
        ssm_in_multiplier=factor(), ssm_out_multiplier=factor(), mlp_multipliers=[factor(), factor()],
        ssm_multipliers=[factor() for _ in range(5)]))
    return config


def jamba(family, draw):
    config = dict(common(draw), intermediate_size=draw.randrange(9, 80), rms_norm_eps=1e-5, mamba_d_state=draw.choice([3, 5, 8, 16]),
                  mamba_d_conv=draw.choice([2, 3, 4]), mamba_expand=draw.choice([1, 2]), mamba_dt_rank=draw.randrange(1, 20),
                  mamba_conv_bias=flag(draw, 0.7), mamba_proj_bias=flag(draw))
    heads = draw.choice([1, 2, 3, 4])
    period = draw.choice([2, 3])
    experts, active = draw.choice([(1, 1), experts_of(draw)])
    every = draw.choice([1, 2])
    config.update(hidden_size=heads * 2 * draw.randrange(5, 16), num_attention_heads=heads,
                  num_key_value_heads=draw.choice([n for n in range(1, heads + 1) if heads % n == 0]), num_hidden_layers=draw.choice([2, 3, 4]),
                  attn_layer_period=period, attn_layer_offset=draw.randrange(period), num_experts=experts, num_experts_per_tok=active,
                  expert_layer_period=every, expert_layer_offset=draw.randrange(every))
    return config if config["attn_layer_offset"] < config["num_hidden_layers"] else None


def lfm2(family, draw):
    layers, heads = draw.choice([2, 3, 4]), draw.choice([1, 2, 3, 4])
    return dict(common(draw), num_hidden_layers=layers, layer_types=kinds(draw, "conv", layers), num_attention_heads=heads,
                hidden_size=heads * 2 * draw.randrange(4, 14), num_key_value_heads=draw.choice([n for n in range(1, heads + 1) if heads % n == 0]),
                intermediate_size=draw.randrange(20, 120), norm_eps=1e-5, conv_L_cache=draw.choice([1, 2, 3, 4, 7]), conv_bias=flag(draw),
                block_multiple_of=draw.choice([1, 5, 8, 16]), block_ffn_dim_multiplier=draw.choice([1.0, 1.3]),
                block_auto_adjust_ff_dim=flag(draw, 0.5), rope_parameters=draw.choice(ROPE[:2]))


def lfm2_moe(family, draw):
    config = lfm2("lfm2", draw)
    for field in ("block_multiple_of", "block_ffn_dim_multiplier", "block_auto_adjust_ff_dim"):
        del config[field]
    experts, active = experts_of(draw)
    return dict(config, num_experts=experts, num_experts_per_tok=active, moe_intermediate_size=draw.randrange(5, 40),
                num_dense_layers=draw.randrange(config["num_hidden_layers"]), use_expert_bias=flag(draw, 0.6),
                norm_topk_prob=flag(draw, 0.6), routed_scaling_factor=draw.choice([1.0, 1.7]))


def lfm3(family, draw):
    layers = draw.choice([2, 3, 4])
    full = draw.choice([{"rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": draw.choice([0.3, 0.5, 1.0])}, ROPE[0]])
    sliding = draw.choice(["full_attention", "sliding_attention"])
    kinds_of = kinds(draw, "conv", layers, sliding)
    kinds_of[draw.randrange(layers)] = draw.choice(["full_attention", "sliding_attention"])
    return heads_of(draw, dict(
        common(draw), num_hidden_layers=layers, layer_types=kinds_of, intermediate_size=draw.randrange(9, 120), norm_eps=1e-5,
        sliding_window=draw.choice([5, 13, 40, 64]), conv_L_cache=draw.choice([2, 3, 7, 9]), conv_bias=flag(draw), attention_bias=flag(draw),
        use_sandwich_norm=flag(draw, 0.6), use_attention_gate=flag(draw, 0.6), pad_token_id=0,
        rope_parameters=draw.choice([None, {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}])))


def olmo_hybrid(family, draw):
    layers, heads = draw.choice([2, 3, 4]), draw.choice([1, 2, 3, 4])
    key_heads = draw.choice([1, 2, 3, 4])
    # transformers saves the joint convolution in three equal parts.
    key_heads, value_heads, key_dim, value_dim = draw.choice([
        (key_heads, key_heads, width := draw.randrange(4, 20), width), (key_heads, 2 * key_heads, 2 * draw.randrange(2, 10), draw.randrange(4, 20))])
    if (2 * key_heads * key_dim + value_heads * value_dim) % 3:
        return None
    theta = draw.choice([None, 10000.0])
    return dict(common(draw), num_hidden_layers=layers, layer_types=kinds(draw, "linear_attention", layers), num_attention_heads=heads,
                hidden_size=heads * 2 * draw.randrange(6, 20), num_key_value_heads=draw.choice([n for n in range(1, heads + 1) if heads % n == 0]),
                intermediate_size=draw.randrange(9, 120), rms_norm_eps=draw.choice([1e-5, 1e-6]), attention_bias=flag(draw),
                linear_conv_kernel_dim=draw.choice([2, 3, 4, 5]), linear_key_head_dim=key_dim, linear_value_head_dim=value_dim,
                linear_num_key_heads=key_heads, linear_num_value_heads=value_heads, linear_allow_neg_eigval=flag(draw, 0.5), pad_token_id=0,
                rope_parameters={"rope_type": "default", "rope_theta": theta})


def kimi_linear(family, draw):
    layers, heads = draw.choice([2, 3, 4]), draw.choice([1, 2, 3, 4])
    groups = draw.choice([1, 1, 2, 3])
    experts = groups * draw.choice([2, 3, 4])
    return dict(common(draw), num_hidden_layers=layers, layer_types=kinds(draw, "linear_attention", layers),
                mlp_layer_types=[draw.choice(["dense", "sparse"]) for _ in range(layers)], intermediate_size=draw.randrange(9, 80),
                moe_intermediate_size=draw.randrange(4, 40), num_attention_heads=heads, num_key_value_heads=heads, rms_norm_eps=1e-5,
                kv_lora_rank=draw.randrange(4, 40), q_lora_rank=draw.choice([None, draw.randrange(4, 30)]), qk_nope_head_dim=draw.randrange(3, 24),
                qk_rope_head_dim=draw.choice([0, 2, 5, 8]), v_head_dim=draw.randrange(3, 30), linear_head_dim=draw.randrange(4, 30),
                linear_num_heads=draw.choice([1, 2, 3, 5]), linear_conv_kernel_dim=draw.choice([2, 3, 4]), attention_bias=flag(draw),
                n_shared_experts=draw.choice([1, 1, 2]), num_local_experts=experts, num_experts_per_tok=draw.choice([1, 2]), n_group=groups,
                topk_group=draw.randrange(1, groups + 1), norm_topk_prob=flag(draw, 0.6), routed_scaling_factor=draw.choice([1.0, 2.446]),
                pad_token_id=0, bos_token_id=None, eos_token_id=None)


def granitemoe(family, draw):
    config = dense("granite", draw)
    experts, active = experts_of(draw)
    del config["mlp_bias"]
    config.update(num_local_experts=experts, num_experts_per_tok=active, intermediate_size=draw.randrange(9, 60))
    if family == "granitemoeshared":
        config["shared_intermediate_size"] = draw.choice([0, draw.randrange(5, 60), draw.randrange(5, 60)])
    return config


def zamba(family, draw):
    """Zamba and Zamba2: layers of which some have a shared block."""
    layers, heads = draw.choice([2, 3, 4]), draw.choice([1, 2, 4])
    config = dict(common(draw), num_hidden_layers=layers, layers_block_type=kinds(draw, "linear_attention", layers, "hybrid"), num_attention_heads=heads,
                  hidden_size=4 * draw.randrange(4, 16), intermediate_size=draw.randrange(9, 80), rms_norm_eps=1e-5,
                  mamba_d_state=draw.choice([3, 5, 8, 16, 33]), mamba_d_conv=draw.choice([2, 3, 4]), mamba_expand=draw.choice([1, 2]),
                  num_key_value_heads=draw.choice([n for n in range(1, heads + 1) if heads % n == 0]), hidden_act=draw.choice(["gelu", "silu"]))
    channels = config["mamba_expand"] * config["hidden_size"]
    if family == "zamba":
        # transformers 5.24.0 can't load a block that only one layer has.
        if config["layers_block_type"].count("hybrid") == 1:
            return None
        config.update(n_mamba_heads=draw.choice([n for n in (1, 2, 4, channels // 4) if channels % n == 0]), mamba_dt_rank=draw.randrange(1, 12),
                      mamba_conv_bias=flag(draw, 0.7), mamba_proj_bias=flag(draw))
        if flag(draw):
            config["attention_head_dim"] = draw.randrange(4, 24)
        return config
    groups = draw.choice([1, 2])
    config.update(n_mamba_heads=groups * draw.choice([1, 2]), mamba_ngroups=groups, num_mem_blocks=draw.choice([1, 2]), adapter_rank=draw.randrange(1, 12),
                  use_mem_rope=flag(draw, 0.5), add_bias_linear=flag(draw), time_step_min=draw.choice([0.001, 0.05]),
                  use_shared_attention_adapter=config["num_key_value_heads"] == heads and flag(draw, 0.5), rope_parameters=ROPE[0])
    return config


def minimax(family, draw):
    layers = draw.choice([2, 3])
    experts, active = experts_of(draw)
    factors = {f"{part}_{name}_factor": draw.choice([0.8, 1.0, 1.2, 1.5])
               for part in ("full_attn", "linear_attn", "mlp") for name in ("alpha", "beta")}
    return heads_of(draw, dict(common(draw), num_hidden_layers=layers, layer_types=kinds(draw, "linear_attention", layers),
                               intermediate_size=draw.randrange(5, 60), rms_norm_eps=1e-5, num_local_experts=experts, num_experts_per_tok=active,
                               block_size=draw.choice([16, 32, 64]), rope_parameters=draw.choice(ROPE[:2]),
                               sliding_window=draw.choice([None, None, 19]), **factors))


MAKERS = {
    **dict.fromkeys(["llama", "mistral", "qwen2", "qwen3", "granite", "mixtral", "qwen3_moe", "olmoe"], dense),
    **dict.fromkeys(["granitemoehybrid", "bamba"], hybrid),
    **dict.fromkeys(["mamba", "mamba2", "falcon_mamba", "xlstm"], recurrent),
    **dict.fromkeys(["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"], delta),
    **dict.fromkeys(["granitemoe", "granitemoeshared"], granitemoe),
    **dict.fromkeys(["zamba", "zamba2"], zamba),
    "nemotron_h": nemotron, "falcon_h1": falcon_h1, "jamba": jamba, "lfm2": lfm2, "lfm2_moe": lfm2_moe, "lfm3": lfm3, "minimax": minimax,
    "olmo_hybrid": olmo_hybrid, "kimi_linear": kimi_linear,
}


def gains(family):
    """Factors on random weights, as the committed cases of a family have them."""
    if family.startswith("granite"):
        return {"embed_tokens": 1 / 6.0}
    # Without residual connections within the shared block, sharper attention amplifies every rounding.
    return {"q_proj.weight": 0.8, "k_proj.weight": 0.8} if family == "zamba2" else {}


def drawn(seed, families):
    """Returns the case of a seed."""
    draw = random.Random(seed)
    family = families[seed % len(families)]
    config = None
    while config is None:
        config = MAKERS[family](family, draw)
    return Case(
        family, f"seed{seed}", config, length=draw.choice([70, 90, 131, 200, 290]), seed=1000 * seed,
        dtype=draw.choice(["float32", "float32", "bfloat16", "float16"]),
        gains=gains(family),
        # The cached decoding of transformers is not checked here.
        cached="unsupported",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", default=",".join(sorted(MAKERS)), help="comma-separated; by default all")
    options = parser.parse_args()
    make.assert_plain_paths()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    make.FIXTURES = options.out.resolve()
    made, left = 0, []
    for seed in range(options.seed, options.seed + options.count):
        case = drawn(seed, options.families.split(","))
        if (make.FIXTURES / case.path / "reference.safetensors").exists():
            continue
        try:
            make.make(case)
            made += 1
        except Exception as error:  # still make the other seeds
            left.append(f"{case.path}: {type(error).__name__}: {error}")
            print("LEFT OUT", left[-1][:400], flush=True)
    print(f"{made} made, {len(left)} left out")
    if not made and left:
        sys.exit(1)


if __name__ == "__main__":
    main()
