"""Makes random checkpoints with the shapes of real models, for benchmarks and for trying the chat. They are not committed.

    python big.py granite-h-350m OUT          # writes OUT/config.json, OUT/model.safetensors, OUT/tokenizer.json, ...
    python big.py --list
    python big.py mamba2-2.7b OUT --bits 4    # random codes and scales, in MLX's layout
    python big.py --self-check                # compare the tensor tables with the committed fixtures

The weights are random numbers of a realistic scale: the model runs as fast as a trained one, but its output is meaningless.
Needs only numpy. Tensors are written one block at a time, so that memory use stays small for any model.
"""

import argparse
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np

from big_tokenizer import END, PAD, write_tokenizer

BLOCK = 1 << 22  # elements drawn at a time


def _granite(layers, attention, **fields):
    return dict(
        model_type="granitemoehybrid", architectures=["GraniteMoeHybridForCausalLM"], vocab_size=100352,
        num_hidden_layers=layers, layer_types=["attention" if i in attention else "mamba" for i in range(layers)],
        attention_bias=False, hidden_act="silu", mamba_conv_bias=True, mamba_proj_bias=False, mamba_d_conv=4,
        mamba_d_state=128, mamba_expand=2, mamba_n_groups=1, mamba_chunk_size=256, max_position_embeddings=32768,
        position_embedding_type="nope", rms_norm_eps=1e-5, rope_scaling=None, rope_theta=10000,
        tie_word_embeddings=True, embedding_multiplier=12, attention_multiplier=0.015625, residual_multiplier=0.246,
        normalization_function="rmsnorm", init_method="mup", **fields,
    )


def _mamba2(hidden, layers):
    return dict(
        model_type="mamba2", architectures=["Mamba2ForCausalLM"], vocab_size=50288, hidden_size=hidden,
        num_hidden_layers=layers, num_heads=2 * hidden // 64, head_dim=64, state_size=128, n_groups=1, expand=2,
        conv_kernel=4, chunk_size=256, use_bias=False, use_conv_bias=True, hidden_act="silu", layer_norm_epsilon=1e-5,
        residual_in_fp32=True, rms_norm=True, time_step_limit=[0.0, float("inf")], time_step_min=0.001,
        time_step_max=0.1, time_step_rank=math.ceil(hidden / 16), tie_word_embeddings=True,
    )


def _qwen3_5(hidden, layers, intermediate, heads, kv_heads, value_heads, tied=True):
    return dict(
        model_type="qwen3_5_text", architectures=["Qwen3_5ForCausalLM"], vocab_size=248320, hidden_size=hidden,
        num_hidden_layers=layers, intermediate_size=intermediate, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=256, attention_bias=False, hidden_act="silu", rms_norm_eps=1e-6, max_position_embeddings=262144,
        layer_types=["full_attention" if i % 4 == 3 else "linear_attention" for i in range(layers)],
        linear_conv_kernel_dim=4, linear_key_head_dim=128, linear_value_head_dim=128, linear_num_key_heads=16,
        linear_num_value_heads=value_heads, tie_word_embeddings=tied,
        rope_parameters=dict(rope_type="default", rope_theta=10000000.0, partial_rotary_factor=0.25),
    )


MODELS = {
    "granite-h-350m": _granite(
        32, (10, 13, 17, 27), hidden_size=768, intermediate_size=2048, shared_intermediate_size=2048,
        num_local_experts=0, num_experts_per_tok=0, num_attention_heads=12, num_key_value_heads=4, mamba_n_heads=48,
        mamba_d_head=32, logits_scaling=3,
    ),
    "granite-h-moe-1.3b": _granite(
        20, (6, 13), hidden_size=1536, intermediate_size=512, shared_intermediate_size=1024, num_local_experts=16,
        num_experts_per_tok=4, num_attention_heads=12, num_key_value_heads=4, mamba_n_heads=48, mamba_d_head=64,
        logits_scaling=6,
    ),
    "mamba2-130m": _mamba2(768, 24),
    "mamba2-1.3b": _mamba2(2048, 48),
    "mamba2-2.7b": _mamba2(2560, 64),
    # 7 B parameters of which 1 B are active.
    "granite-h-tiny": _granite(
        40, (5, 15, 25, 35), hidden_size=1536, intermediate_size=512, shared_intermediate_size=1024,
        num_local_experts=64, num_experts_per_tok=6, num_attention_heads=12, num_key_value_heads=4, mamba_n_heads=48,
        mamba_d_head=64, logits_scaling=6,
    ),
    "xlstm-1b": dict(
        model_type="xlstm", architectures=["xLSTMForCausalLM"], vocab_size=50304, hidden_size=2048, embedding_dim=2048,
        num_hidden_layers=20, num_blocks=20, num_heads=4, qk_dim_factor=0.5, v_dim_factor=1.0, use_bias=False,
        norm_eps=1e-6, eps=1e-6, ffn_proj_factor=2.667, ffn_round_up_to_multiple_of=64, gate_soft_cap=15.0,
        output_logit_soft_cap=30.0, weight_mode="single", chunk_size=64, tie_word_embeddings=False,
    ),
    "qwen2-0.5b": dict(
        model_type="qwen2", architectures=["Qwen2ForCausalLM"], vocab_size=151936, hidden_size=896,
        intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, hidden_act="silu",
        max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0, rope_scaling=None,
        sliding_window=32768, use_sliding_window=False, max_window_layers=24, tie_word_embeddings=True,
    ),
    "qwen3.5-0.8b": _qwen3_5(1024, 24, 3584, 8, 2, 16),
    "qwen3.5-4b": _qwen3_5(2560, 32, 9216, 16, 4, 32),
    "nemotron-h-4b": dict(
        model_type="nemotron_h", architectures=["NemotronHForCausalLM"], vocab_size=131072, hidden_size=3072,
        num_hidden_layers=52, hybrid_override_pattern="M-M-M-M*-" + 3 * "M-M-M-M-M*-" + "M-M-M-M-M-",
        intermediate_size=12288, num_attention_heads=32, num_key_value_heads=8, head_dim=128, ssm_state_size=128,
        mamba_num_heads=112, mamba_head_dim=64, n_groups=8, conv_kernel=4, chunk_size=128, mlp_hidden_act="relu2",
        use_conv_bias=True, use_bias=False, mlp_bias=False, attention_bias=False, layer_norm_epsilon=1e-5,
        time_step_min=0.001, time_step_max=0.1, time_step_limit=[0.0, float("inf")], max_position_embeddings=8192,
        tie_word_embeddings=False,
    ),
    "lfm2-1.2b": dict(
        model_type="lfm2", architectures=["Lfm2ForCausalLM"], vocab_size=65536, hidden_size=2048, intermediate_size=12288,
        num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=128000, norm_eps=1e-5,
        layer_types=["full_attention" if i in (2, 5, 8, 10, 12, 14) else "conv" for i in range(16)], conv_L_cache=3,
        conv_bias=False, block_auto_adjust_ff_dim=True, block_ffn_dim_multiplier=1.0, block_multiple_of=256,
        rope_theta=1000000.0, tie_word_embeddings=True,
    ),
}


# ------------------------------------------------------------------------------------------ tensor tables


def _attention_tensors(c, prefix, bias):
    d = c["hidden_size"]
    head_dim = c.get("head_dim") or d // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    for name, rows, columns in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q)):
        yield f"{prefix}.{name}_proj.weight", (rows, columns)
        if bias and name != "o":
            yield f"{prefix}.{name}_proj.bias", (rows,)


def _mamba2_tensors(d, inner, heads, groups, state, kernel, prefix):
    conv = inner + 2 * groups * state
    yield f"{prefix}.A_log", (heads,)
    yield f"{prefix}.D", (heads,)
    yield f"{prefix}.dt_bias", (heads,)
    yield f"{prefix}.conv1d.weight", (conv, 1, kernel)
    yield f"{prefix}.conv1d.bias", (conv,)
    yield f"{prefix}.in_proj.weight", (inner + conv + heads, d)
    yield f"{prefix}.norm.weight", (inner,)
    yield f"{prefix}.out_proj.weight", (d, inner)


def _granite_tensors(c):
    d, experts, ff, shared = (c[k] for k in (
        "hidden_size", "num_local_experts", "intermediate_size", "shared_intermediate_size"))
    yield "model.embed_tokens.weight", (c["vocab_size"], d)
    for i, kind in enumerate(c["layer_types"]):
        p = f"model.layers.{i}"
        yield f"{p}.input_layernorm.weight", (d,)
        if kind in ("attention", "full_attention"):
            yield from _attention_tensors(c, f"{p}.self_attn", False)
        else:
            yield from _mamba2_tensors(
                d, c["mamba_n_heads"] * c["mamba_d_head"], c["mamba_n_heads"], c["mamba_n_groups"],
                c["mamba_d_state"], c["mamba_d_conv"], f"{p}.mamba")
        yield f"{p}.post_attention_layernorm.weight", (d,)
        if experts:
            yield f"{p}.block_sparse_moe.router.layer.weight", (experts, d)
            yield f"{p}.block_sparse_moe.input_linear.weight", (experts, 2 * ff, d)
            yield f"{p}.block_sparse_moe.output_linear.weight", (experts, d, ff)
        yield f"{p}.shared_mlp.input_linear.weight", (2 * shared, d)
        yield f"{p}.shared_mlp.output_linear.weight", (d, shared)
    yield "model.norm.weight", (d,)


def _mamba2_model_tensors(c):
    d = c["hidden_size"]
    yield "backbone.embeddings.weight", (c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        p = f"backbone.layers.{i}"
        yield f"{p}.norm.weight", (d,)
        yield from _mamba2_tensors(d, c["expand"] * d, c["num_heads"], c["n_groups"], c["state_size"],
                                   c["conv_kernel"], f"{p}.mixer")
    yield "backbone.norm_f.weight", (d,)


def _xlstm_tensors(c):
    d, heads = c["hidden_size"], c["num_heads"]
    qk, v = int(d * c["qk_dim_factor"]), int(d * c["v_dim_factor"])
    multiple = c["ffn_round_up_to_multiple_of"]
    ff = int((d * c["ffn_proj_factor"] + multiple - 1) // multiple * multiple)
    yield "backbone.embeddings.weight", (c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        p = f"backbone.blocks.{i}"
        m = f"{p}.mlstm_layer"
        yield f"{p}.norm_mlstm.weight", (d,)
        for name, rows in (("q", qk), ("k", qk), ("v", v), ("ogate_preact", v)):
            yield f"{m}.{name}.weight", (rows, d)
        for name in ("igate_preact", "fgate_preact"):
            yield f"{m}.{name}.weight", (heads, d)
            yield f"{m}.{name}.bias", (heads,)
        yield f"{m}.multihead_norm.weight", (v,)
        yield f"{m}.out_proj.weight", (d, v)
        yield f"{p}.norm_ffn.weight", (d,)
        yield f"{p}.ffn.proj_up_gate.weight", (ff, d)
        yield f"{p}.ffn.proj_up.weight", (ff, d)
        yield f"{p}.ffn.proj_down.weight", (d, ff)
    yield "backbone.out_norm.weight", (d,)
    yield "lm_head.weight", (c["vocab_size"], d)


def _qwen2_tensors(c):
    d, ff = c["hidden_size"], c["intermediate_size"]
    yield "model.embed_tokens.weight", (c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}"
        yield f"{p}.input_layernorm.weight", (d,)
        yield from _attention_tensors(c, f"{p}.self_attn", True)
        yield f"{p}.post_attention_layernorm.weight", (d,)
        for name, shape in (("gate", (ff, d)), ("up", (ff, d)), ("down", (d, ff))):
            yield f"{p}.mlp.{name}_proj.weight", shape
    yield "model.norm.weight", (d,)


def _mlp_tensors(c, prefix, names=("gate_proj", "up_proj", "down_proj"), width=None):
    d, ff = c["hidden_size"], width or c["intermediate_size"]
    gate, up, down = names
    yield f"{prefix}.{gate}.weight", (ff, d)
    yield f"{prefix}.{up}.weight", (ff, d)
    yield f"{prefix}.{down}.weight", (d, ff)


def _head_tensors(c):
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], c["hidden_size"])


def _qwen3_5_tensors(c):
    d, head_dim = c["hidden_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    heads = c["linear_num_value_heads"]
    keys, values = c["linear_num_key_heads"] * c["linear_key_head_dim"], heads * c["linear_value_head_dim"]
    yield "model.embed_tokens.weight", (c["vocab_size"], d)
    for i, kind in enumerate(c["layer_types"]):
        p = f"model.layers.{i}"
        yield f"{p}.input_layernorm.weight", (d,)
        if kind == "full_attention":
            m = f"{p}.self_attn"
            # Half of the queries' rows are the output gate.
            for name, shape in (("q_proj", (2 * q, d)), ("k_proj", (kv, d)), ("v_proj", (kv, d)), ("o_proj", (d, q)),
                                ("q_norm", (head_dim,)), ("k_norm", (head_dim,))):
                yield f"{m}.{name}.weight", shape
        else:
            m = f"{p}.linear_attn"
            yield f"{m}.A_log", (heads,)
            yield f"{m}.dt_bias", (heads,)
            yield f"{m}.conv1d.weight", (2 * keys + values, 1, c["linear_conv_kernel_dim"])
            yield f"{m}.norm.weight", (c["linear_value_head_dim"],)
            for name, shape in (("a", (heads, d)), ("b", (heads, d)), ("qkv", (2 * keys + values, d)), ("z", (values, d))):
                yield f"{m}.in_proj_{name}.weight", shape
            yield f"{m}.out_proj.weight", (d, values)
        yield from _mlp_tensors(c, f"{p}.mlp")
        yield f"{p}.post_attention_layernorm.weight", (d,)
    yield "model.norm.weight", (d,)
    yield from _head_tensors(c)


def _nemotron_tensors(c):
    d, ff = c["hidden_size"], c["intermediate_size"]
    kinds = {"linear_attention": "M", "mlp": "-", "full_attention": "*"}
    pattern = c.get("hybrid_override_pattern") or [kinds[kind] for kind in c["layers_block_type"]]
    yield "backbone.embeddings.weight", (c["vocab_size"], d)
    for i, kind in enumerate(pattern):
        p = f"backbone.layers.{i}"
        yield f"{p}.norm.weight", (d,)
        if kind == "M":
            yield from _mamba2_tensors(d, c["mamba_num_heads"] * c["mamba_head_dim"], c["mamba_num_heads"], c["n_groups"],
                                       c["ssm_state_size"], c["conv_kernel"], f"{p}.mixer")
        elif kind == "*":
            yield from _attention_tensors(c, f"{p}.mixer", False)
        else:
            yield f"{p}.mixer.up_proj.weight", (ff, d)
            yield f"{p}.mixer.down_proj.weight", (d, ff)
    yield "backbone.norm_f.weight", (d,)
    yield from _head_tensors(c)


def _lfm2_tensors(c):
    d, multiple = c["hidden_size"], c["block_multiple_of"]
    ff = c["intermediate_size"]
    if c["block_auto_adjust_ff_dim"]:
        ff = int(c["block_ffn_dim_multiplier"] * int(2 * ff / 3))
        ff = (ff + multiple - 1) // multiple * multiple
    head_dim = d // c["num_attention_heads"]
    yield "model.embed_tokens.weight", (c["vocab_size"], d)
    for i, kind in enumerate(c["layer_types"]):
        p = f"model.layers.{i}"
        yield f"{p}.operator_norm.weight", (d,)
        if kind == "full_attention":
            for name, shape in _attention_tensors(c, f"{p}.self_attn", False):
                yield name.replace("o_proj", "out_proj"), shape
            yield f"{p}.self_attn.q_layernorm.weight", (head_dim,)
            yield f"{p}.self_attn.k_layernorm.weight", (head_dim,)
        else:
            yield f"{p}.conv.conv.weight", (d, 1, c["conv_L_cache"])
            yield f"{p}.conv.in_proj.weight", (3 * d, d)
            yield f"{p}.conv.out_proj.weight", (d, d)
        yield f"{p}.ffn_norm.weight", (d,)
        yield from _mlp_tensors(c, f"{p}.feed_forward", ("w1", "w3", "w2"), ff)
    yield "model.embedding_norm.weight", (d,)


TABLES = {
    "granitemoehybrid": _granite_tensors, "mamba2": _mamba2_model_tensors, "xlstm": _xlstm_tensors,
    "qwen2": _qwen2_tensors, "qwen3_5_text": _qwen3_5_tensors, "nemotron_h": _nemotron_tensors, "lfm2": _lfm2_tensors,
}


# ------------------------------------------------------------------------------------------------ weights


FINAL_NORMS = ("model.norm.weight", "backbone.norm_f.weight", "model.embedding_norm.weight")


def _draw(name, shape, count, rng, config):
    """`count` consecutive elements of the tensor."""
    normal = lambda scale: rng.standard_normal(count, dtype=np.float32) * np.float32(scale)
    uniform = lambda low, high: rng.uniform(low, high, count).astype(np.float32)
    if name.endswith("A_log"):
        return np.log(uniform(1, 16))
    if name.endswith("dt_bias"):
        dt = np.exp(uniform(math.log(0.001), math.log(0.1)))
        return dt + np.log(-np.expm1(-dt))
    if name.endswith(".D"):
        return 1 + normal(0.1)
    if "igate_preact.bias" in name:
        return -10 + normal(0.5)
    if "fgate_preact.bias" in name:
        return uniform(3, 6)
    if name in FINAL_NORMS and config["tie_word_embeddings"]:
        # Both signs: a tied head after a positive norm would repeat the last token forever. The scale gives
        # logits a spread of about 3.
        return normal(3 * config.get("logits_scaling", 1) / _embedding_std(config) / math.sqrt(shape[0]))
    if "norm" in name:
        return 1 + normal(0.1)
    if len(shape) == 1:
        return normal(0.1)
    if "embed" in name:
        return normal(_embedding_std(config))
    if name == "lm_head.weight":
        return normal(3 / math.sqrt(shape[-1]))
    return normal(1 / math.sqrt(shape[-1]))


def _embedding_std(config):
    return 1 / config.get("embedding_multiplier", 1)


def _to_bf16(values):
    """Rounds to nearest even; returns the bytes as little-endian bf16."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_weights(config, path, seed):
    """Writes the tensors of the config as one bf16 safetensors file."""
    table = sorted(TABLES[config["model_type"]](config))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in table:
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in table:
            # A separate random stream for each tensor, so that the table's order does not matter.
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            # Qwen3.5's norms multiply by 1 + w; mlx-lm stores the sum.
            offset_norm = config["model_type"] == "qwen3_5_text" and "norm" in name and "linear_attn" not in name
            left = math.prod(shape)
            while left:
                count = min(left, BLOCK)
                file.write(_to_bf16(_draw(name, shape, count, rng, config) - np.float32(offset_norm)))
                left -= count
    return offset


# ---------------------------------------------------------------------------------------- quantized weights


def _mlx_table(config):
    """The tensors as mlx-lm names and stacks them."""
    for name, shape in TABLES[config["model_type"]](config):
        if name.endswith("block_sparse_moe.input_linear.weight"):
            experts, rows, columns = shape
            for half in ("gate_proj", "up_proj"):
                yield name.replace("input_linear", f"switch_mlp.{half}"), (experts, rows // 2, columns)
        elif name.endswith("block_sparse_moe.output_linear.weight"):
            yield name.replace("output_linear", "switch_mlp.down_proj"), shape
        elif name.endswith(("conv1d.weight", "conv.conv.weight")):
            yield name, (shape[0], shape[2], shape[1])
        else:
            yield name, shape


def _is_quantized(name, shape, group):
    kept = ("norm", "conv1d", "router", "gate_preact")
    return len(shape) > 1 and shape[-1] % group == 0 and (
        "ogate_preact" in name or not any(word in name for word in kept))


def _quantized_table(config, bits, group):
    """For each tensor: name, safetensors type, stored shape, and a function that draws `count` elements."""
    for name, shape in sorted(_mlx_table(config)):
        if not _is_quantized(name, shape, group):
            yield name, "BF16", shape, lambda rng, count, n=name, s=shape: _to_bf16(_draw(n, s, count, rng, config))
            continue
        *rows, columns = shape
        spread = _embedding_std(config) if "embed" in name else 1 / math.sqrt(columns)
        # Codes are uniform; this scale gives the weights that standard deviation, and this bias gives them a mean of 0.
        scale = spread * math.sqrt(12) / (1 << bits)
        base = name.removesuffix(".weight")
        yield name, "U32", (*rows, columns * bits // 32), lambda rng, count: rng.bytes(4 * count)
        vary = lambda rng, count: rng.uniform(0.9, 1.1, count).astype(np.float32)
        yield f"{base}.scales", "BF16", (*rows, columns // group), (
            lambda rng, count, s=scale: _to_bf16(vary(rng, count) * np.float32(s)))
        yield f"{base}.biases", "BF16", (*rows, columns // group), (
            lambda rng, count, s=scale: _to_bf16(vary(rng, count) * np.float32(-s * ((1 << bits) - 1) / 2)))


def write_quantized(config, path, seed, bits, group):
    """Writes random codes, scales and biases as one safetensors file."""
    table = list(_quantized_table(config, bits, group))
    header, offset = {"__metadata__": {"format": "mlx"}}, 0
    for name, dtype, shape, _ in table:
        size = math.prod(shape) * (4 if dtype == "U32" else 2)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, _, shape, draw in table:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            left = math.prod(shape)
            while left:
                count = min(left, BLOCK)
                file.write(draw(rng, count))
                left -= count
    return offset


def make(name, folder, seed, bits, group):
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(MODELS[name], torch_dtype="bfloat16", use_cache=True, transformers_version="4.57.0",
                  bos_token_id=END, eos_token_id=END, pad_token_id=PAD)
    if bits:
        config["quantization"] = dict(bits=bits, group_size=group, mode="affine")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}, indent=2) + "\n")
    write_tokenizer(folder, config["vocab_size"])
    path = folder / "model.safetensors"
    size = write_quantized(config, path, seed, bits, group) if bits else write_weights(config, path, seed)
    parameters = sum(math.prod(shape) for _, shape in TABLES[config["model_type"]](config))
    print(f"{folder}: {parameters / 1e6:.0f} M parameters, {size / 1e6:.0f} MB")


def self_check():
    """Compares the tables with the checkpoints that `transformers` saved."""
    fixtures = Path(__file__).resolve().parent.parent / "fixtures"
    for case in ("granitemoehybrid/plain", "granitemoehybrid/dense", "mamba2/plain", "xlstm/plain", "xlstm/odd",
                 "qwen2/plain", "qwen3_5_text/plain", "nemotron_h/plain", "lfm2/plain"):
        config = json.loads((fixtures / case / "config.json").read_text())
        with open(fixtures / case / "model.safetensors", "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        saved = {name: tuple(t["shape"]) for name, t in header.items() if name != "__metadata__"}
        if saved != dict(TABLES[config["model_type"]](config)):
            sys.exit(f"{case}: the table differs: {set(saved.items()) ^ set(TABLES[config['model_type']](config))}")
        print(f"{case}: {len(saved)} tensors agree")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=sorted(MODELS))
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bits", type=int, choices=(2, 3, 4, 5, 6, 8), help="quantize to affine codes with this many bits")
    parser.add_argument("--group-size", type=int, default=64, choices=(32, 64, 128))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--self-check", action="store_true")
    options = parser.parse_args()
    if options.list:
        for name, config in MODELS.items():
            parameters = sum(math.prod(shape) for _, shape in TABLES[config["model_type"]](config))
            print(f"{name}: {parameters / 1e6:.0f} M parameters, {parameters * 2 / 1e6:.0f} MB")
    elif options.self_check:
        self_check()
    elif options.model and options.out:
        make(options.model, options.out, options.seed, options.bits, options.group_size)
    else:
        parser.error("give a model and a folder")


if __name__ == "__main__":
    main()
