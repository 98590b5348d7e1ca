"""Translates an MLX checkpoint for `transformers`: dequantizes its tensors to f32 and restores their original names.

Written from the layout's description, without MLX. Affine codes: w = scale * q + bias in f32, with the product and the sum each rounded.
mxfp4, mxfp8 and nvfp4: element times scale.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
NVFP4_RANGE = 448.0 * 6.0
WITHIN = "language_model."  # what mlx-lm puts before the names of Qwen 3.5


def unpack(words, bits):
    """u32 [.., n] -> codes [.., n * 32 / bits]: a bit stream, lowest bit first."""
    shape = words.shape
    bytes_ = np.ascontiguousarray(words.numpy().astype("<u4")).view(np.uint8).reshape(-1, shape[-1] * 4)
    stream = np.unpackbits(bytes_, axis=1, bitorder="little").reshape(bytes_.shape[0], -1, bits)
    codes = (stream.astype(np.int64) << np.arange(bits)).sum(axis=2)
    return torch.from_numpy(codes).reshape(*shape[:-1], -1)


def e4m3(codes):
    return codes.to(torch.uint8).view(torch.float8_e4m3fn).float()


def dequantize(words, scales, biases, cols, global_scale=None):
    """The f32 weights, and (bits, group, mode)."""
    bits = words.shape[-1] * 32 // cols
    group = cols // scales.shape[-1]
    codes = unpack(words, bits)
    codes = codes.reshape(*codes.shape[:-1], -1, group)
    if scales.dtype != torch.uint8:
        w = codes.float() * scales.float()[..., None] + biases.float()[..., None]
        mode = "affine"
    elif group == 16:
        s = e4m3(scales)
        if global_scale is not None:
            s = s * (global_scale.float() / NVFP4_RANGE).reshape(-1, *[1] * (s.dim() - 1))
        w, mode = E2M1[codes] * s[..., None], "nvfp4"
    else:
        s = torch.exp2(scales.float() - 127.0)
        mode = "mxfp4" if bits == 4 else "mxfp8"
        w = (E2M1[codes] if bits == 4 else e4m3(codes)) * s[..., None]
    return w.reshape(*w.shape[:-2], -1), (bits, group, mode)


def read(folder, cols_of):
    """All tensors of an MLX checkpoint in f32 under its own names, and the formats found: name -> (bits, group, mode). `cols_of`
    gives the columns of a packed tensor by its name and shape."""
    tensors, formats = {}, {}
    files = sorted(Path(folder).glob("model*.safetensors"))
    stored = {k: v for file in files for k, v in load_file(file).items()}
    for name, value in stored.items():
        prefix, _, part = name.rpartition(".")
        quantized = stored.get(f"{prefix}.weight")
        if part in ("scales", "biases", "global_scale") and quantized is not None and quantized.dtype == torch.uint32:
            continue
        if value.dtype == torch.uint32:
            beside = [stored.get(f"{prefix}.{p}") for p in ("scales", "biases", "global_scale")]
            value, formats[name] = dequantize(value, beside[0], beside[1], cols_of(name), beside[2])
        tensors[name] = value.float()
    return tensors, formats


def _kimi_names(tensors):
    """Kimi Linear: experts in another module, other names of convolutions, and up projections of latents by head, that of keys
    transposed."""
    out = {}
    for name, value in tensors.items():
        name = name.replace(".mlp.e_score", ".mlp.gate.e_score").replace(".mlp.", ".block_sparse_moe.")
        for part in "qkv":
            name = name.replace(f".{part}_conv.conv.weight", f".{part}_conv1d.weight")
        prefix, found, _ = name.partition("embed_q.weight")
        if found:
            up = torch.cat([value.transpose(1, 2), tensors[f"{prefix}unembed_out.weight"]], dim=1)
            out[f"{prefix}kv_b_proj.weight"] = up.flatten(0, 1).contiguous()
        elif not name.endswith("unembed_out.weight"):
            out[name] = value
    return out


def own_network(family, name):
    """The original name of a matrix in a feed-forward network without experts."""
    if family == "lfm2_moe":
        for mlx, own in {"gate": "w1", "up": "w3", "down": "w2"}.items():
            name = name.replace(f".feed_forward.{mlx}_proj.", f".feed_forward.{own}.")
    return name


def original(family, tensors):
    """Converts MLX's names, stacked tensors and axes to those of `transformers`."""
    out = {}
    if family == "kimi_linear":
        tensors = _kimi_names(tensors)
    for name, value in tensors.items():
        name = name.removeprefix(WITHIN)
        if name.endswith(("conv1d.weight", "conv.conv.weight")) and value.dim() == 3 and value.shape[-1] == 1:
            value = value.transpose(1, 2).contiguous()
        if ".switch_mlp." not in name:
            out[own_network(family, name)] = value
            continue
        prefix, _, part = name.partition(".switch_mlp.")
        part = part.split("_")[0]
        if family in ("granitemoe", "granitemoehybrid"):
            if part == "down":
                out[f"{prefix}.output_linear.weight"] = value
            elif part == "gate":
                up = tensors[f"{prefix}.switch_mlp.up_proj.weight"]
                out[f"{prefix}.input_linear.weight"] = torch.cat([value, up], dim=1)
            continue
        names = {"gate": "w1", "up": "w3", "down": "w2"} if family in ("mixtral", "kimi_linear", "lfm2_moe") else {}
        names |= {"fc1.weight": "up_proj", "fc2.weight": "down_proj"}
        for expert, matrix in enumerate(value):
            out[f"{prefix}.experts.{expert}.{names.get(part, part + '_proj')}.weight"] = matrix.contiguous()
    if family == "granitemoehybrid":
        for name in [n for n in out if n.endswith(".mlp.gate_proj.weight")]:
            prefix = name.removesuffix(".mlp.gate_proj.weight")
            gate, up = out.pop(name), out.pop(f"{prefix}.mlp.up_proj.weight")
            out[f"{prefix}.shared_mlp.input_linear.weight"] = torch.cat([gate, up])
            out[f"{prefix}.shared_mlp.output_linear.weight"] = out.pop(f"{prefix}.mlp.down_proj.weight")
    return out


def without_factors(tensors, config):
    """Takes out of Falcon-H1's weights the factors that mlx-lm multiplies into them (`sanitize` of falcon_h1.py), in float64. Those on
    keys, and on the input of attention as far as values use it, are in no weight."""
    ssm, groups = config["ssm_multipliers"], config["mamba_n_groups"] * config["mamba_d_state"]
    sizes = [config["mamba_d_ssm"], config["mamba_d_ssm"], groups, groups, config["mamba_n_heads"]]
    sections = torch.cat([torch.full((size,), factor, dtype=torch.float64) for size, factor in zip(sizes, ssm)])
    factors = {
        "embed_tokens": config["embedding_multiplier"], "lm_head": config["lm_head_multiplier"],
        "q_proj": config["attention_in_multiplier"], "k_proj": config["attention_in_multiplier"],
        "o_proj": config["attention_out_multiplier"], "in_proj": config["ssm_in_multiplier"] * sections[:, None],
        "out_proj": config["ssm_out_multiplier"], "gate_proj": config["mlp_multipliers"][0],
        "down_proj": config["mlp_multipliers"][1],
    }
    out = {}
    for name, value in tensors.items():
        factor = factors.get(name.split(".")[-2], 1.0) if name.endswith(".weight") else 1.0
        out[name] = (value.double() / factor).float()
    return out


def without_ones(tensors):
    """Takes out of the norms of Qwen3-Next and Qwen 3.5 the 1 that mlx-lm adds to their weights (`sanitize` of qwen3_next.py and
    qwen3_5.py): all but those of Gated DeltaNet."""
    ends = ("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")
    return {name: value - 1.0 if name.endswith(ends) else value for name, value in tensors.items()}


def _latent_columns(shapes, name):
    """The columns of a latent's up projections: of keys by head and transposed, the width of a head's key."""
    prefix = name.rpartition(".self_attn.")[0] + ".self_attn."
    rows, rank = shapes[f"{prefix}kv_b_proj.weight"]
    if name.endswith("unembed_out.weight"):
        return rank
    keys = rows - shapes[f"{prefix}o_proj.weight"][1]
    common = shapes[f"{prefix}kv_a_proj_with_mqa.weight"][0] - rank
    return keys // ((shapes[f"{prefix}q_proj.weight"][0] - keys) // common)


def columns(original_shapes, family):
    """The number of columns of a packed tensor, from the shapes of the unquantized checkpoint."""

    def cols_of(name):
        name = name.removeprefix(WITHIN)
        if family == "kimi_linear":
            name = name.replace(".mlp.", ".block_sparse_moe.")
            if name.endswith(("embed_q.weight", "unembed_out.weight")):
                return _latent_columns(original_shapes, name)
        candidates = [name]
        if ".switch_mlp." in name:
            prefix, _, part = name.partition(".switch_mlp.")
            part = part.removesuffix(".weight")
            part = {"fc1": "up_proj", "fc2": "down_proj"}.get(part, part)
            w = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}[part]
            fused = "output_linear" if part == "down_proj" else "input_linear"
            candidates = [f"{prefix}.experts.0.{part}.weight", f"{prefix}.experts.0.{w}.weight", f"{prefix}.{fused}.weight"]
        candidates.append(own_network(family, name))
        if family == "granitemoehybrid" and ".mlp." in name:
            prefix, _, part = name.partition(".mlp.")
            fused = "output_linear" if part.startswith("down") else "input_linear"
            candidates.append(f"{prefix}.shared_mlp.{fused}.weight")
        return next(original_shapes[c][-1] for c in candidates if c in original_shapes)

    return cols_of


def stated(folder):
    """`quantization` of config.json."""
    return json.loads((Path(folder) / "config.json").read_text()).get("quantization")
