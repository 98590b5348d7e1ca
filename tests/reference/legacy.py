"""Converts the config.json of transformers 5 to what transformers 4.x wrote.

Most checkpoints on the hub were saved by 4.x: with other names, without values that were the default or did not exist
yet, with infinity as a bare `Infinity`, and with fields that have no effect on the model. Every
`config.legacy.json` is loaded by `transformers` again and must give the same logits.
"""


def _drop(config, **defaults):
    """Leaves out fields that equal their default."""
    for key, default in defaults.items():
        if key in config and config[key] == default:
            del config[key]


def _plain_floats(value):
    """`{"__float__": "Infinity"}` -> inf, which `json` writes as a bare Infinity."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _plain_floats(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain_floats(v) for v in value]
    return value


def _rope(config):
    """rope_parameters -> rope_theta and rope_scaling (null, or with `type` / `rope_type`)."""
    rope = config.pop("rope_parameters", None)
    if rope is None:
        return
    rope = dict(rope)
    config["rope_theta"] = rope.pop("rope_theta")
    partial = rope.pop("partial_rotary_factor", None)
    if partial is not None and config["model_type"] != "bamba":  # there the family fixes it
        config["partial_rotary_factor"] = partial
    kind = rope.pop("rope_type")
    if kind == "default":
        config["rope_scaling"] = None
        return
    if kind == "yarn":
        _drop(rope, beta_fast=32.0, beta_slow=1.0)
    # `type` is the older spelling; llama3 came with `rope_type`.
    config["rope_scaling"] = {("rope_type" if kind == "llama3" else "type"): kind, **rope}


def _llama(config):
    _drop(config, attention_bias=False, mlp_bias=False, num_key_value_heads=config["num_attention_heads"],
          head_dim=config["hidden_size"] // config["num_attention_heads"])
    if config.get("rope_theta") == 10000.0 and config["rope_scaling"] is None:
        del config["rope_theta"], config["rope_scaling"]


def _mistral(config):
    _drop(config, head_dim=config["hidden_size"] // config["num_attention_heads"])


def _qwen(config):
    config.pop("layer_types", None)
    # The hub's Qwen configs have a window but switch it off: it must not be applied.
    if not config["use_sliding_window"]:
        config["sliding_window"] = 8


def _mixtral(config):
    if config.get("head_dim") is None:
        config.pop("head_dim", None)


def _experts(config):
    if "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")


def _granitemoehybrid(config):
    old = {"linear_attention": "mamba", "full_attention": "attention"}
    config["layer_types"] = [old[kind] for kind in config["layer_types"]]
    _drop(config, time_step_limit=[0.0, float("inf")], layer_types=["mamba"] * config["num_hidden_layers"])
    config.update(init_method="mup", normalization_function="rmsnorm", rope_scaling=config.get("rope_scaling"))


def _bamba(config):
    for key in ("layer_types", "layers_block_type"):
        config.pop(key, None)
    _drop(config, time_step_limit=[0.0, float("inf")], attention_bias=False, mlp_bias=False)
    config["attn_rotary_emb"] = config["hidden_size"] // config["num_attention_heads"] // 2


def _mamba(config):
    _drop(config, tie_word_embeddings=True, time_step_rank=-(-config["hidden_size"] // 16), mixer_rms_eps=1e-6)
    config.pop("use_associative_scan")
    if config["model_type"] == "mamba":
        config.update(
            d_inner=config["intermediate_size"], d_model=config["hidden_size"], n_layer=config["num_hidden_layers"],
            fused_add_norm=True, rms_norm=True, pad_vocab_size_multiple=8, ssm_cfg={},
        )


def _mamba2(config):
    # Mamba2Config in 4.x always wrote its limit, with a bare Infinity.
    _drop(config, tie_word_embeddings=False)
    config.update(norm_before_gate=True, rms_norm=True)


def _nemotron_h(config):
    letters = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}
    kinds = config.pop("layers_block_type", None) or config["layer_types"]
    config.pop("layer_types", None)
    config["hybrid_override_pattern"] = "".join(letters[kind] for kind in kinds)
    config["num_hidden_layers"] = len(kinds)
    for key in ("mtp_layers_block_type", "num_nextn_predict_layers"):
        config.pop(key, None)
    _drop(config, n_group=1, topk_group=1, routed_scaling_factor=1.0, moe_latent_size=None)


def _falcon_h1(config):
    _drop(config, time_step_limit=[0.0, float("inf")], attention_bias=False, mlp_bias=False,
          mlp_multipliers=[1.0, 1.0], ssm_multipliers=[1.0] * 5, projectors_bias=False)
    config.update(mamba_use_mlp=True, mlp_expansion_factor=8)


def _jamba(config):
    _drop(config, mamba_dt_rank=-(-config["hidden_size"] // 16))
    config.pop("use_associative_scan", None)
    config.update(calc_logits_for_entire_prompt=False, sliding_window=None, use_mamba_kernels=True)


def _xlstm(config):
    head_dim = int(config["hidden_size"] * config["v_dim_factor"]) // config["num_heads"]
    config.update(
        add_embedding_dropout=False, add_qk_norm=False, head_dim=head_dim, cell_norm_eps=config["norm_eps"],
        chunkwise_kernel="chunkwise--triton_xl_chunk", sequence_kernel="native_sequence__triton",
        step_kernel="triton", mode="inference", norm_type="rmsnorm",
    )


def _interval(config):
    """layer_types -> full_attention_interval, where every so many layers are attention."""
    for interval in range(1, config["num_hidden_layers"] + 1):
        kinds = ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(len(config["layer_types"]))]
        if kinds == config["layer_types"]:
            del config["layer_types"]
            config["full_attention_interval"] = interval
            return


def _qwen3_next(config):
    _experts(config)
    _interval(config)
    _drop(config, attention_bias=False, partial_rotary_factor=0.25)
    config.update(use_sliding_window=False)


def _qwen3_5(config):
    """The hub's Qwen 3.5 checkpoints see and read: the language model's config is within another."""
    inner = dict(config)
    _experts(inner)
    inner["dtype"] = inner.pop("torch_dtype")
    inner.update(attn_output_gate=True, full_attention_interval=4, mamba_ssm_dtype="float32", mtp_num_hidden_layers=1)
    config.clear()
    config.update(
        architectures=[inner.pop("architectures")[0].replace("ForCausalLM", "ForConditionalGeneration")],
        model_type=inner["model_type"].removesuffix("_text"), text_config=inner,
        tie_word_embeddings=inner["tie_word_embeddings"], vision_config={"depth": 2, "hidden_size": 32},
        image_token_id=7,
    )


def _lfm2(config):
    """The spelling of Liquid AI's own code beside that of `transformers` 4.x."""
    full = [i for i, kind in enumerate(config.pop("layer_types")) if kind == "full_attention"]
    config.update(
        full_attn_idxs=full, block_ff_dim=config["intermediate_size"], block_dim=config["hidden_size"],
        conv_dim=config["hidden_size"], conv_dim_out=config["hidden_size"], block_norm_eps=config["norm_eps"],
        num_heads=config["num_attention_heads"], block_use_swiglu=True, use_pos_enc=True,
        theta=config["rope_theta"], tie_embedding=config.pop("tie_word_embeddings"),
    )
    # What `block_ff_dim` overrules.
    config["intermediate_size"] += 1
    _drop(config, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True, conv_bias=False, conv_L_cache=3)


def _lfm2_moe(config):
    config["tie_embedding"] = config.pop("tie_word_embeddings")
    _drop(config, use_expert_bias=True, norm_topk_prob=True, routed_scaling_factor=1.0, conv_bias=False, conv_L_cache=3)


def _lfm3(config):
    """The other name of the epsilon, and nothing that is the default."""
    config["rms_norm_eps"] = config.pop("norm_eps")
    default = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
               "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.5}}
    _drop(config, rope_parameters=default, use_sandwich_norm=True, use_attention_gate=True, attention_bias=False,
          conv_bias=False, conv_L_cache=7)


def _granitemoe(config):
    _drop(config, head_dim=None, attention_bias=False, shared_intermediate_size=0)


def _minimax(config):
    """The names of MiniMax's own code beside those of `transformers`."""
    if config["layer_types"] == ["linear_attention" if i % 2 else "full_attention"
                                 for i in range(config["num_hidden_layers"])]:
        del config["layer_types"]
    factors = [f"{part}_{kind}_factor" for part in ("full_attn", "linear_attn", "mlp") for kind in ("alpha", "beta")]
    _drop(config, **{key: 1 for key in factors}, head_dim=None, block_size=256)
    config.update(postnorm=True, shared_intermediate_size=0, shared_moe_mode="sigmoid")


def _kimi(config):
    """The names of Kimi's own code, which lists layers by their numbers from 1."""
    kinds = {kind: [i + 1 for i, other in enumerate(config["layer_types"]) if other == kind]
             for kind in ("full_attention", "linear_attention")}
    del config["layer_types"]
    config["linear_attn_config"] = {
        "full_attn_layers": kinds["full_attention"], "kda_layers": kinds["linear_attention"],
        "head_dim": config.pop("linear_head_dim"), "num_heads": config.pop("linear_num_heads"),
        "short_conv_kernel_size": config.pop("linear_conv_kernel_dim"),
    }
    types = config["mlp_layer_types"]
    dense = types.count("dense")
    if types == ["dense"] * dense + ["sparse"] * (len(types) - dense):
        del config["mlp_layer_types"]
        config["first_k_dense_replace"] = dense
    _drop(config, num_expert_group=1, topk_group=1, moe_renormalize=True, attention_bias=False)
    config.update(head_dim=72, mla_use_nope=True, moe_layer_freq=1, moe_router_activation_func="sigmoid",
                  num_nextn_predict_layers=0, rope_scaling=None, rope_theta=10000.0, use_grouped_topk=True)


def _zamba2(config):
    """With what follows from the other sizes, and with a switch that has no effect."""
    kinds = config.pop("layers_block_type")
    config["layers_block_type"] = ["mamba" if kind == "linear_attention" else kind for kind in kinds]
    config.update(
        hybrid_layer_ids=[i for i, kind in enumerate(kinds) if kind == "hybrid"],
        attention_hidden_size=2 * config["hidden_size"], kv_channels=config["hidden_size"] // config["num_attention_heads"],
        attention_head_dim=2 * config["hidden_size"] // config["num_attention_heads"], use_conv_bias=False,
        mamba_headdim=int(config["mamba_expand"] * config["hidden_size"]) // config["n_mamba_heads"],
    )
    _drop(config, tie_word_embeddings=True, add_bias_linear=False, num_key_value_heads=config["num_attention_heads"],
          time_step_min=0.001, num_mem_blocks=1, use_mem_rope=False, use_shared_attention_adapter=False, use_long_context=False)


def _zamba(config):
    kinds = config.pop("layers_block_type")
    config["layers_block_type"] = ["mamba" if kind == "linear_attention" else kind for kind in kinds]
    _drop(config, tie_word_embeddings=True, mamba_conv_bias=True, mamba_proj_bias=False, hidden_mamba_act="silu",
          attention_hidden_size=2 * config["hidden_size"],
          attention_head_dim=2 * config["hidden_size"] // config["num_attention_heads"])
    config.update(use_mamba_kernels=True, attn_layer_period=6, attn_layer_offset=4)


# These came with transformers 5.
_NEW = ("qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid", "lfm3")

_RULES = {
    "llama": _llama, "mistral": _mistral, "qwen2": _qwen, "qwen3": _qwen, "mixtral": _mixtral,
    "qwen3_moe": lambda c: (_qwen(c), _experts(c)), "olmoe": _experts,
    "granite": lambda c: _drop(c, head_dim=None), "granitemoehybrid": _granitemoehybrid, "bamba": _bamba,
    "nemotron_h": _nemotron_h, "falcon_h1": _falcon_h1, "jamba": _jamba,
    "qwen3_next": _qwen3_next, "qwen3_5_text": _qwen3_5, "qwen3_5_moe_text": _qwen3_5,
    "olmo_hybrid": lambda c: _drop(c, attention_bias=False, linear_allow_neg_eigval=True),
    "mamba": _mamba, "falcon_mamba": _mamba, "mamba2": _mamba2, "xlstm": _xlstm, "lfm2": _lfm2, "lfm2_moe": _lfm2_moe, "lfm3": _lfm3,
    "minimax": _minimax, "granitemoe": _granitemoe, "granitemoeshared": _granitemoe,
    "kimi_linear": _kimi,
    "zamba": _zamba, "zamba2": _zamba2,
}


def legacy_config(config):
    """The 4.x spelling of a config.json (a dict)."""
    config = _plain_floats(dict(config))
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    _drop(config, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    if config["model_type"] not in _NEW:
        _rope(config)
    _RULES[config["model_type"]](config)
    return config


def loadable(config):
    """The config of the language model, without what `transformers` checks against installed kernels."""
    config = config.get("text_config", config)
    if config["model_type"] != "xlstm":
        return config
    kernels = ("chunkwise_kernel", "sequence_kernel", "step_kernel")
    return {key: value for key, value in config.items() if key not in kernels}
