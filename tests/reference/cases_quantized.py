"""The cases of make_quantized.py: every family at 4 and 8 bits, and between them all modes, group sizes, scale types and spellings of the
config."""

from dataclasses import dataclass
from typing import Any, Callable

from cases import Case
from cases_hybrid import MULTIPLIERS


@dataclass
class Quantized:
    """A quantized checkpoint with its reference outputs: `tests/fixtures/quantized/<family>-<name>/`."""

    base: Case
    name: str
    job: dict[str, Any]  # options for mlx-lm: see convert_mlx.py
    formats: list[str]  # the formats that must be found afterwards: mode-bits-group
    edit: Callable[[dict], Any] | None = None  # changes config.json in place, to equivalent spellings
    legacy: bool = True  # whether mlx-lm gets config.json as transformers 4 wrote it
    note: str = ""

    @property
    def family(self):
        return self.base.family

    @property
    def path(self):
        return f"{self.family}/{self.name}"

    @property
    def folder(self):
        return f"{self.family}-{self.name}"


_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_ATTENTION = dict(
    vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=256, rms_norm_eps=1e-5,
)
_DENSE = {**_ATTENTION, "intermediate_size": 96, "rope_parameters": _ROPE}
_MOE = {**_ATTENTION, "num_experts_per_tok": 2, "rope_parameters": _ROPE}
_MAMBA2 = dict(mamba_n_heads=4, mamba_d_head=32, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=32)
_FACTORS = dict(embedding_multiplier=6.0, attention_multiplier=0.4, residual_multiplier=0.3, logits_scaling=4.0)
_GRANITE_HYBRID = {
    **_ATTENTION, **_MAMBA2, **_FACTORS, "mamba_expand": 1, "mamba_n_heads": 2, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"],
    "mamba_n_groups": 1, "position_embedding_type": "nope", "tie_word_embeddings": True, "intermediate_size": 64,
    "shared_intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2,
}
_GRANITE_DENSE = {**_GRANITE_HYBRID, "num_local_experts": 0, "num_experts_per_tok": 0}
_RECURRENT = dict(vocab_size=64, hidden_size=64, num_hidden_layers=2, conv_kernel=4, state_size=16)

# mlx-lm reads a number of layers from one attention to the next, no `layer_types`.
_DELTA = {
    **_ATTENTION, "intermediate_size": 64, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
    "num_experts": 2, "num_experts_per_tok": 2, "head_dim": 16, "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5},
}

_BASES = {
    "llama": _DENSE,
    "mistral": {**_DENSE, "sliding_window": 13, "head_dim": 16},
    "qwen2": {**_DENSE, "tie_word_embeddings": True, "use_sliding_window": False, "max_window_layers": 1},
    "qwen3": {**_DENSE, "tie_word_embeddings": True, "head_dim": 32},
    "granite": {**_DENSE, **_FACTORS, "tie_word_embeddings": False},
    "mixtral": {**_MOE, "intermediate_size": 64, "num_local_experts": 4, "sliding_window": None},
    "qwen3_moe": {**_MOE, "intermediate_size": 96, "moe_intermediate_size": 64, "num_experts": 4, "head_dim": 16,
                  "norm_topk_prob": True, "num_hidden_layers": 2, "mlp_only_layers": [1], "tie_word_embeddings": False},
    "olmoe": {**_MOE, "intermediate_size": 64, "num_experts": 4, "clip_qkv": 1.5, "norm_topk_prob": False},
    "lfm2": dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=256, norm_eps=1e-5, block_multiple_of=32,
                 layer_types=["conv", "full_attention"], rope_parameters={**_ROPE, "rope_theta": 1000000.0}),
    # A token takes every expert: rounded activations can't send it to another. So in what follows.
    "lfm2_moe": dict(vocab_size=32, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, norm_eps=1e-5,
                     num_dense_layers=1, num_experts=2, num_experts_per_tok=2, routed_scaling_factor=1.7,
                     layer_types=["conv", "full_attention"], rope_parameters={**_ROPE, "rope_theta": 1000000.0}),
    "lfm3": dict(vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=16, max_position_embeddings=256, norm_eps=1e-5, sliding_window=13,
                 layer_types=["conv", "sliding_attention"], pad_token_id=0),
    "granitemoe": {**_MOE, **_FACTORS, "vocab_size": 32, "intermediate_size": 64, "num_local_experts": 2, "tie_word_embeddings": True},
    "granitemoeshared": {**_MOE, **_FACTORS, "intermediate_size": 32, "num_local_experts": 2,
                         "shared_intermediate_size": 64, "tie_word_embeddings": True},
    "minimax": {**_MOE, "intermediate_size": 64, "num_local_experts": 2, "num_hidden_layers": 2, "block_size": 8,
                "head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
                "linear_attn_alpha_factor": 1.3, "full_attn_beta_factor": 0.8, "mlp_alpha_factor": 0.7,
                "rope_parameters": {**_ROPE, "rope_theta": 1000000.0}},
    "qwen3_next": {**_DELTA, "norm_topk_prob": True},
    "qwen3_5_text": {k: v for k, v in _DELTA.items() if "expert" not in k and not k.startswith("moe")},
    "qwen3_5_moe_text": {k: v for k, v in _DELTA.items() if k != "intermediate_size"},
    # Without RoPE. mlx-lm rotates unless `rope_theta` is null.
    "olmo_hybrid": {**{k: v for k, v in _DELTA.items() if "expert" not in k and not k.startswith("moe") and k != "head_dim"},
                    "hidden_size": 32, "intermediate_size": 32, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "pad_token_id": 0,
                    "rope_parameters": {**_ROPE, "rope_theta": None}},
    "granitemoehybrid": _GRANITE_HYBRID,
    # A token takes every expert: rounded activations can't send it to another.
    "kimi_linear": dict(
        vocab_size=48, hidden_size=64, intermediate_size=32, moe_intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=16,
        v_head_dim=32, linear_head_dim=32, linear_num_heads=1, layer_types=["linear_attention", "full_attention"],
        mlp_layer_types=["dense", "sparse"], num_local_experts=2, num_experts_per_tok=2, n_shared_experts=1,
        max_position_embeddings=256, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    ),
    "mamba": {**_RECURRENT, "expand": 2, "time_step_rank": 32},
    "mamba2": {**_RECURRENT, "num_heads": 4, "head_dim": 32, "n_groups": 2, "expand": 2, "chunk_size": 32,
               "tie_word_embeddings": False},
    "falcon_mamba": {**_RECURRENT, "tie_word_embeddings": False, "time_step_rank": 4},
    "xlstm": dict(vocab_size=64, hidden_size=64, num_hidden_layers=1, num_heads=2, qk_dim_factor=1.0, v_dim_factor=1.0,
                  ffn_proj_factor=1.0, ffn_round_up_to_multiple_of=32, chunk_size=64),
    "bamba": {**_ATTENTION, **_MAMBA2, "num_hidden_layers": 2, "attn_layer_indices": [1], "intermediate_size": 64,
              "mamba_n_groups": 2, "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5}},
    "zamba": dict(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
        layers_block_type=["hybrid", "linear_attention", "hybrid"], max_position_embeddings=256, mamba_d_state=8, mamba_expand=1,
        n_mamba_heads=2, mamba_dt_rank=4,
    ),
    "zamba2": dict(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4, adapter_rank=32,
        layers_block_type=["hybrid", "linear_attention", "hybrid"], max_position_embeddings=256, mamba_d_state=8, mamba_expand=1,
        n_mamba_heads=4, num_mem_blocks=1, use_mem_rope=True, rope_parameters=_ROPE,
    ),
    "nemotron_h": dict(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        layers_block_type=["linear_attention", "moe", "full_attention", "mlp"], max_position_embeddings=256, ssm_state_size=16,
        mamba_num_heads=4, mamba_head_dim=16, n_groups=2, conv_kernel=4, chunk_size=32, n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=64, moe_shared_expert_intermediate_size=64, routed_scaling_factor=2.5,
    ),
    # No factor is 1: mlx-lm puts most of them into the weights.
    "falcon_h1": {
        **_DENSE, "intermediate_size": 64, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 2,
        "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_chunk_size": 32, "mamba_rms_norm": False, **MULTIPLIERS,
    },
    "jamba": {
        **_ATTENTION, "num_hidden_layers": 2, "intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2,
        "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
        "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 1, "mamba_dt_rank": 32,
    },
}
_LACKING = ("bamba", "granitemoeshared", "lfm3", "minimax", "xlstm", "zamba", "zamba2")  # not supported by mlx-lm


def _case(family, name, formats, dtype="bfloat16", config=None, edit=None, legacy=True, length=40, note="", **job):
    gains = {"embed_tokens": 1 / 6.0} if family.startswith("granite") else {}
    if family == "falcon_h1":
        gains = {"embed_tokens": 1 / 3.0}
    if family == "zamba2":
        gains = {"q_proj.weight": 0.8, "k_proj.weight": 0.8}
    base = Case(family, name, {**_BASES[family], **(config or {})}, length=length, dtype=dtype, gains=gains)
    if family in _LACKING:
        job["raw"] = True
    return Quantized(base, name, job, formats, edit, legacy, note)


def _no_copy(config):
    """The old spelling: no mode, no copy under the other name."""
    del config["quantization_config"]
    stated = config["quantization"]
    stated.pop("mode")
    for value in stated.values():
        if isinstance(value, dict):
            value.pop("mode", None)


def _only_copy(config):
    """Only the copy for other loaders."""
    del config["quantization"]


def _top_only(config):
    """Without entries for single layers: their formats follow from the shapes."""
    for key in ("quantization", "quantization_config"):
        config[key] = {k: v for k, v in config[key].items() if not isinstance(v, dict)}


def _false(*paths):
    """Lists the layers that are not quantized, like mlx_lm.quant.awq."""

    def edit(config):
        for key in ("quantization", "quantization_config"):
            config[key].update({path: False for path in paths})

    return edit


def _method(name):
    """The layout's name in checkpoints that weren't made by mlx-lm."""

    def edit(config):
        config.pop("quantization")
        config["quantization_config"] = {"quant_method": name, "modules_to_not_convert": ["lm_head"]}

    return edit


def _affine(bits, group, **rest):
    return {"bits": bits, "group_size": group, **rest}


def all_cases():
    """Every case, in the order in which they are generated."""
    wide = {"hidden_size": 128, "intermediate_size": 128}
    cases = [
        _case("llama", "affine4", ["affine-4-64"], **_affine(4, 64), config={"intermediate_size": 128}),
        _case("llama", "affine8", ["affine-8-32"], dtype="float16", **_affine(8, 32)),
        _case("llama", "old-spelling3", ["affine-3-32"], dtype="float32", edit=_no_copy, **_affine(3, 32)),
        _case("llama", "mixed-3-6", ["affine-3-64", "affine-6-64"], predicate="mixed_3_6", note="group_size null",
              config={"intermediate_size": 128, "num_hidden_layers": 2}, edit=None),
        _case("llama", "v5-config", ["mxfp4-4-32"], legacy=False, mode="mxfp4"),
        _case("llama", "some-dense", ["affine-5-64", "affine-8-32"], dtype="float16", **_affine(5, 64),
              config={"intermediate_size": 128, "attention_bias": True, "mlp_bias": True},
              predicate={"v_proj": False, "lm_head": {"group_size": 32, "bits": 8}, "embed_tokens": False},
              edit=_false("model.layers.0.self_attn.v_proj", "model.embed_tokens")),
        _case("llama", "sharded", ["affine-4-32"], shard=0.01, **_affine(4, 32)),
        _case("mistral", "affine4", ["affine-4-128"], config=wide, **_affine(4, 128)),
        _case("mistral", "affine8", ["affine-8-128"], dtype="float16", config=wide, **_affine(8, 128)),
        _case("mistral", "only-copy6", ["affine-6-32"], edit=_only_copy, **_affine(6, 32)),
        _case("qwen2", "affine4", ["affine-4-32"], dtype="float16", **_affine(4, 32)),
        _case("qwen2", "affine8", ["affine-8-64"], **_affine(8, 64), config={"intermediate_size": 128}),
        _case("qwen2", "mxfp4", ["mxfp4-4-32"], mode="mxfp4"),
        _case("qwen3", "affine4", ["affine-4-64"], dtype="float32", **_affine(4, 64), config={"intermediate_size": 128}),
        _case("qwen3", "affine8", ["affine-8-64"], **_affine(8, 64), config={"intermediate_size": 128}),
        _case("qwen3", "nvfp4", ["nvfp4-4-16"], mode="nvfp4"),
        _case("qwen3", "mxfp8", ["mxfp8-8-32"], mode="mxfp8", edit=_method("mxfp8")),
        _case("granite", "affine4", ["affine-4-64", "affine-8-64"], **_affine(4, 64), config={"intermediate_size": 128}),
        _case("granite", "affine8", ["affine-8-64"], dtype="float16", **_affine(8, 64), config={"intermediate_size": 128}),
        _case("granite", "nvfp4", ["affine-8-64", "nvfp4-4-16"], mode="nvfp4", config={"intermediate_size": 128}),
        _case("granite", "lost-entries", ["affine-2-32", "affine-8-64"], dtype="float32", **_affine(2, 32),
              config={"intermediate_size": 128}, edit=_top_only),
        _case("mixtral", "affine4", ["affine-4-32"], **_affine(4, 32)),
        _case("mixtral", "affine8", ["affine-8-64"], dtype="float16", **_affine(8, 64)),
        _case("mixtral", "global-scale", ["nvfp4-4-16"], mode="nvfp4", global_scale=True, bits=4, group_size=16),
        _case("mixtral", "unquantized", [], quantize=False, config={"intermediate_size": 32}),
        _case("mixtral", "mixed-2-6", ["affine-2-64", "affine-6-64"], predicate="mixed_2_6", group_size=64,
              config={"tie_word_embeddings": True}),
        _case("qwen3_moe", "affine4", ["affine-4-32", "affine-8-64"], **_affine(4, 32)),
        _case("qwen3_moe", "affine8", ["affine-8-64"], dtype="float32", **_affine(8, 64),
              config={"intermediate_size": 64, "num_experts": 3}),
        _case("qwen3_moe", "mxfp8", ["affine-8-64", "mxfp8-8-32"], mode="mxfp8", note="the router's entry has no mode"),
        _case("olmoe", "affine4", ["affine-4-64"], dtype="float16", **_affine(4, 64)),
        _case("olmoe", "affine8", ["affine-8-32"], **_affine(8, 32)),
        _case("olmoe", "affine5", ["affine-5-32"], **_affine(5, 32)),
        _case("olmoe", "unquantized", [], dtype="float16", quantize=False, config={"intermediate_size": 32}),
        _case("lfm2", "affine4", ["affine-4-64"], **_affine(4, 64)),
        _case("lfm2", "affine8", ["affine-8-32"], dtype="float16", **_affine(8, 32),
              config={"conv_bias": True, "conv_L_cache": 5}),
        _case("lfm2_moe", "affine4", ["affine-4-32", "affine-8-64"], **_affine(4, 32)),
        _case("lfm2_moe", "affine8", ["affine-8-32", "affine-8-64"], dtype="float16", **_affine(8, 32),
              config={"use_expert_bias": False, "num_dense_layers": 0, "num_hidden_layers": 1, "layer_types": ["full_attention"]}),
        _case("lfm3", "affine4", ["affine-4-64"], **_affine(4, 64)),
        _case("lfm3", "affine8", ["affine-8-32"], dtype="float16", **_affine(8, 32),
              config={"num_hidden_layers": 1, "layer_types": ["full_attention"], "use_sandwich_norm": False}),
        _case("granitemoe", "affine4", ["affine-4-32", "affine-8-64"], **_affine(4, 32)),
        _case("granitemoe", "affine8", ["affine-8-64"], dtype="float16", config={"attention_bias": True}, **_affine(8, 64)),
        _case("granitemoeshared", "affine4", ["affine-4-32"], **_affine(4, 32)),
        _case("granitemoeshared", "affine8", ["affine-8-32"], dtype="float16", **_affine(8, 32)),
        # In half precision the decays that it stores would be rounded, each table by itself.
        _case("minimax", "affine4", ["affine-4-32"], dtype="float32", **_affine(4, 32)),
        _case("minimax", "affine8", ["affine-8-64"], dtype="float32", **_affine(8, 64)),
        _case("qwen3_next", "affine4", ["affine-4-32", "affine-8-64"], **_affine(4, 32), config={"num_experts": 4}),
        _case("qwen3_next", "affine8", ["affine-8-64"], dtype="float16", **_affine(8, 64),
              config={"mlp_only_layers": [1], "attention_bias": True}),
        _case("qwen3_5_text", "affine4", ["affine-4-64"], **_affine(4, 64)),
        _case("qwen3_5_text", "affine8", ["affine-8-32"], dtype="float32", **_affine(8, 32),
              config={"tie_word_embeddings": True}),
        _case("qwen3_5_moe_text", "affine4", ["affine-4-64", "affine-8-64"], dtype="float16", **_affine(4, 64),
              config={"num_experts": 4}),
        _case("qwen3_5_moe_text", "affine8", ["affine-8-32", "affine-8-64"], **_affine(8, 32)),
        _case("olmo_hybrid", "affine4", ["affine-4-32"], **_affine(4, 32)),
        _case("olmo_hybrid", "affine8", ["affine-8-32"], dtype="float16", **_affine(8, 32), config={"attention_bias": True,
              "tie_word_embeddings": True, "linear_allow_neg_eigval": False, "rope_parameters": _ROPE}),
        _case("kimi_linear", "affine4", ["affine-4-32", "affine-8-64"], **_affine(4, 32)),
        _case("kimi_linear", "affine8", ["affine-8-32"], dtype="float16", **_affine(8, 32),
              config={"linear_conv_kernel_dim": 3, "mlp_layer_types": ["dense", "dense"]}),
        _case("granitemoehybrid", "affine4", ["affine-4-64", "affine-8-64"], **_affine(4, 64)),
        _case("granitemoehybrid", "affine8", ["affine-8-32", "affine-8-64"], dtype="float16", **_affine(8, 32)),
        _case("granitemoehybrid", "dense4", ["affine-4-32"], dtype="float32", config=_GRANITE_DENSE, **_affine(4, 32)),
        _case("granitemoehybrid", "dense-mxfp4", ["mxfp4-4-32"], config=_GRANITE_DENSE, mode="mxfp4"),
        _case("granitemoehybrid", "unquantized", [], quantize=False,
              config={"shared_intermediate_size": 16, "intermediate_size": 16}),
        _case("granitemoehybrid", "dense-unquantized", [], quantize=False, config=_GRANITE_DENSE),
        _case("mamba", "affine4", ["affine-4-32"], **_affine(4, 32)),
        _case("mamba", "affine8", ["affine-8-64"], dtype="float16", **_affine(8, 64)),
        _case("mamba", "affine6", ["affine-6-64"], **_affine(6, 64), config={"time_step_rank": 4}),
        _case("mamba", "unquantized", [], dtype="float16", quantize=False, config={"num_hidden_layers": 1}),
        _case("mamba2", "affine4", ["affine-4-64"], **_affine(4, 64)),
        _case("mamba2", "affine8", ["affine-8-32"], dtype="float32", **_affine(8, 32)),
        _case("mamba2", "affine3", ["affine-3-64"], dtype="float16", **_affine(3, 64), config={"use_bias": True}),
        _case("mamba2", "unquantized", [], quantize=False, config={"num_hidden_layers": 1}),
        _case("falcon_mamba", "affine4", ["affine-4-64"], **_affine(4, 64)),
        _case("falcon_mamba", "affine8", ["affine-8-64"], dtype="float16", **_affine(8, 64)),
        _case("xlstm", "affine4", ["affine-4-64"], **_affine(4, 64)),
        _case("xlstm", "affine8", ["affine-8-32"], dtype="float32", **_affine(8, 32)),
        _case("xlstm", "mxfp4", ["affine-8-64", "mxfp4-4-32"], mode="mxfp4", dtype="float32",
              predicate={"lm_head": {"bits": 8}, "igate_preact": False, "fgate_preact": False}),
        _case("xlstm", "affine2", ["affine-2-32", "affine-6-32"], **_affine(2, 32),
              predicate={"lm_head": _affine(6, 32), "proj_down": _affine(6, 32)}),
        _case("bamba", "affine4", ["affine-4-32"], dtype="float16", **_affine(4, 32)),
        _case("bamba", "affine8", ["affine-8-64"], **_affine(8, 64)),
        _case("bamba", "nvfp4", ["nvfp4-4-16"], mode="nvfp4"),
        _case("nemotron_h", "affine4", ["affine-4-64"], **_affine(4, 64)),
        _case("nemotron_h", "affine8", ["affine-8-32"], dtype="float32", **_affine(8, 32)),
        _case("nemotron_h", "latent4", ["affine-4-32"], **_affine(4, 32),
              config={"layers_block_type": ["moe", "full_attention"], "moe_latent_size": 32, "n_routed_experts": 2}),
        _case("zamba", "affine4", ["affine-4-32"], **_affine(4, 32)),
        _case("zamba", "affine8", ["affine-8-32"], dtype="float16", **_affine(8, 32)),
        _case("zamba2", "affine4", ["affine-4-32"], **_affine(4, 32),
              config={"num_hidden_layers": 2, "layers_block_type": ["linear_attention", "hybrid"]}),
        _case("zamba2", "affine8", ["affine-8-32"], dtype="float16", **_affine(8, 32),
              config={"num_hidden_layers": 2, "layers_block_type": ["hybrid", "linear_attention"]}),
        _case("falcon_h1", "affine4", ["affine-4-64"], dtype="float32", **_affine(4, 64)),
        _case("falcon_h1", "affine8", ["affine-8-32"], **_affine(8, 32), config={"tie_word_embeddings": True}),
        _case("falcon_h1", "unquantized", [], dtype="float16", quantize=False,
              config={"mamba_rms_norm": True, "mamba_norm_before_gate": False}),
        _case("jamba", "affine4", ["affine-4-32", "affine-8-64"], **_affine(4, 32)),
        _case("jamba", "affine8", ["affine-8-64"], dtype="float16", **_affine(8, 64), config={"tie_word_embeddings": True}),
    ]
    paths = [case.path for case in cases]
    assert len(paths) == len(set(paths)), "two cases share a name"
    return cases
