"""Makes the fixtures in quantized layouts of other projects: GPTQ, AWQ and FP8.

    python make_foreign.py             # all missing cases
    python make_foreign.py gptq4 --force
    python make_foreign.py --list

The matrices of tiny random models are rounded to nearest and packed like the layouts' authors do it (written from the layouts'
descriptions, sharing no code with the engine). The expected logits are those of `transformers` with the decoded values of the packed
tensors, in f32. `exact` in the metadata says whether the engine's own formats can represent those values; if not, it re-encodes
them in 8 bits, and the test allows for that error.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import make
from cases import Case
from cases_quantized import _BASES
from legacy import legacy_config

FIXTURES = make.FIXTURES / "foreign"
MAX_SEEDS = 60
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def pack_stream(codes, bits, axis):
    """Packs codes into i32 words along an axis: a bit stream, lowest bit first."""
    moved = np.moveaxis(codes, axis, -1).astype(np.uint32)
    rows = moved.reshape(-1, moved.shape[-1])
    stream = ((rows[..., None] >> np.arange(bits)) & 1).astype(np.uint8).reshape(rows.shape[0], -1)
    words = np.packbits(stream, axis=1, bitorder="little").view("<i4")
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(words.reshape(*moved.shape[:-1], -1), -1, axis)))


def pack_awq(codes):
    """Packs the nibbles of eight outputs per word, in AutoAWQ's order: [n, outputs] -> [n, outputs / 8]."""
    eights = codes.reshape(codes.shape[0], -1, 8).astype(np.uint32)
    words = sum(eights[:, :, output] << (4 * i) for i, output in enumerate(AWQ_ORDER))
    return torch.from_numpy(words.astype(np.uint32).view(np.int32).copy())


def round_to_groups(weight, bits, groups_of, symmetric, dtype):
    """Asymmetric (or symmetric) rounding of [outputs, inputs] by groups of inputs: codes, zeros, scales [groups, outputs]."""
    count, top = int(groups_of.max()) + 1, 2**bits - 1
    codes = np.zeros(weight.shape, dtype=np.int64)
    zeros = np.zeros((count, weight.shape[0]), dtype=np.int64)
    scales = np.zeros((count, weight.shape[0]), dtype=np.float32)
    for group in range(count):
        columns = groups_of == group
        part = weight[:, columns]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            high = np.maximum(-low, high)
            low = -high
        scale = torch.from_numpy((high - low) / top).to(dtype).float().numpy()
        zero = np.full_like(scale, 2 ** (bits - 1)) if symmetric else np.clip(np.round(-low / scale), 1, top)
        codes[:, columns] = np.clip(np.round(part / scale[:, None]) + zero[:, None], 0, top)
        zeros[group], scales[group] = zero, scale
    return codes, zeros, scales


def integer(weight, case):
    """The tensors of a GPTQ or AWQ layer, and their decoded values."""
    bits, inputs = case["bits"], weight.shape[1]
    group = inputs if case.get("group", 32) == -1 else case.get("group", 32)
    groups_of = np.arange(inputs) // group
    if case.get("act_order"):
        groups_of = groups_of[np.random.default_rng(inputs).permutation(inputs)]
    dtype = getattr(torch, case.get("scales", "float16"))
    codes, zeros, scales = round_to_groups(weight.numpy(), bits, groups_of, case.get("sym", False), dtype)
    meaning = torch.from_numpy(scales[groups_of].T * (codes - zeros[groups_of].T).astype(np.float32))
    parts = {"scales": torch.from_numpy(scales).to(dtype)}
    if case["method"] == "awq":
        parts.update(qweight=pack_awq(codes.T), qzeros=pack_awq(zeros))
    else:
        stored = zeros if case.get("v2") else (zeros - 1) % 2**bits
        parts.update(qweight=pack_stream(codes.T, bits, 0), qzeros=pack_stream(stored, bits, 1))
        if case.get("g_idx", True):
            parts["g_idx"] = torch.from_numpy(groups_of.astype(np.int32))
    return parts, meaning


def fp8(weight, case):
    """The tensors of an FP8 layer, and their decoded values."""
    rows, cols = weight.shape
    named = {"tensor": [rows, cols], "channel": [1, cols]}
    block = case["scale"] if isinstance(case["scale"], list) else named[case["scale"]]
    down, across = -(-rows // block[0]), -(-cols // block[1])
    scales = torch.zeros(down, across)
    for i in range(down):
        for j in range(across):
            part = weight[i * block[0]:(i + 1) * block[0], j * block[1]:(j + 1) * block[1]]
            scales[i, j] = part.abs().max() / 448.0
    if case.get("powers"):
        scales = torch.exp2(torch.ceil(torch.log2(scales)))
    dtype = getattr(torch, case.get("scales", "float32"))
    scales = scales.to(dtype)
    wide = scales.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:rows, :cols]
    codes = (weight / wide).clamp(-448, 448).to(torch.float8_e4m3fn)
    shape = case.get("tensor_shape", [1]) if case["scale"] == "tensor" else [down, across]
    parts = {"weight": codes, case.get("name", "weight_scale"): scales.reshape(shape)}
    if case.get("input_scale"):
        parts["input_scale"] = torch.tensor([0.01])
    return parts, codes.float() * wide


def config_of(case):
    """`quantization_config`."""
    bits, group = case.get("bits"), case.get("group", 32)
    if case["method"] == "gptq":
        stated = dict(quant_method="gptq", bits=bits, group_size=group, desc_act=case.get("act_order", False),
                      sym=case.get("sym", False), damp_percent=0.1, true_sequential=True)
        if case.get("v2"):
            stated["checkpoint_format"] = "gptq_v2"
        return stated
    if case["method"] == "awq":
        return dict(quant_method="awq", bits=bits, group_size=group, version="gemm", zero_point=True,
                    modules_to_not_convert=None)
    if case["method"] == "fp8":
        stated = dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic")
        if isinstance(case["scale"], list):
            stated["weight_block_size"] = case["scale"]
        return stated
    strategy = case["scale"] if isinstance(case["scale"], str) else "block"
    weights = dict(num_bits=8, type="float", strategy=strategy, symmetric=True, dynamic=False, observer="minmax",
                   block_structure=case["scale"] if strategy == "block" else None)
    groups = {"group_0": dict(targets=["Linear"], weights=weights, output_activations=None,
                              input_activations=dict(num_bits=8, type="float", strategy="token", dynamic=True))}
    return dict(quant_method="compressed-tensors", format="float-quantized", config_groups=groups, ignore=["lm_head"],
                kv_cache_scheme=None, quantization_status="compressed")


CASES = {
    "gptq4": dict(family="llama", method="gptq", bits=4, exact=True),
    "gptq4-act-order": dict(family="llama", method="gptq", bits=4, act_order=True, exact=False),
    "gptq4-v2-sym": dict(family="qwen2", method="gptq", bits=4, group=64, v2=True, sym=True, g_idx=False, exact=True,
                         config={"intermediate_size": 128}),
    "gptq8-row": dict(family="granite", method="gptq", bits=8, group=-1, sym=True, exact=True),
    "gptq3-experts": dict(family="mixtral", method="gptq", bits=3, exact=True, scales="bfloat16"),
    "gptq2": dict(family="qwen3", method="gptq", bits=2, exact=True),
    "gptq4-ragged": dict(family="mistral", method="gptq", bits=4, group=64, exact=True),
    "awq": dict(family="qwen2", method="awq", bits=4, exact=True),
    "awq-wide": dict(family="mistral", method="awq", bits=4, group=128, exact=True,
                     config={"hidden_size": 128, "intermediate_size": 128}),
    "fp8-block": dict(family="llama", method="fp8", scale=[64, 64], name="weight_scale_inv", exact=False,
                      config={"intermediate_size": 96}),
    "fp8-block-powers": dict(family="olmoe", method="fp8", scale=[32, 32], name="weight_scale_inv", powers=True, exact=True),
    "fp8-e8m0": dict(family="falcon_mamba", method="fp8", scale=[32, 32], name="weight_scale_inv", powers=True,
                     scales="float8_e8m0fnu", exact=True),
    "fp8-tensor": dict(family="mamba2", method="compressed-tensors", scale="tensor", exact=True, input_scale=True),
    "fp8-tensor-scalar": dict(family="xlstm", method="fp8", scale="tensor", tensor_shape=[], scales="bfloat16", exact=True),
    "fp8-channel": dict(family="granitemoehybrid", method="compressed-tensors", scale="channel", scales="bfloat16", exact=False,
                        config={"num_local_experts": 0, "num_experts_per_tok": 0, "tie_word_embeddings": False}),
    "fp8-channel-old-field": dict(family="qwen3_moe", method="compressed-tensors", scale="channel", exact=False,
                                  compression=True),
    "fp8-ct-block": dict(family="bamba", method="compressed-tensors", scale=[32, 64], powers=True, exact=True),
}


def is_quantized(name, tensor, case):
    if tensor.dim() != 2 or not name.endswith(".weight") or "norm" in name or "embed" in name or "lm_head" in name:
        return False
    # Routers stay unquantized, like in those projects, and so do rows that aren't a whole number of groups.
    return not name.endswith(("mlp.gate.weight", "moe.gate.weight", "gate_preact.weight")) and tensor.shape[1] % 32 == 0


def build(name, case, seed, folder):
    base = Case(case["family"], name, {**_BASES[case["family"]], **case.get("config", {})}, length=40, dtype="float16")
    model, tokens = make.build(base, seed)
    make.save(base, model, folder / "source")
    original = load_file(folder / "source" / "model.safetensors")
    stored, meaning = {}, {}
    for tensor_name, tensor in original.items():
        if not is_quantized(tensor_name, tensor, case):
            stored[tensor_name], meaning[tensor_name] = tensor, tensor.float()
            continue
        pack = integer if case["method"] in ("gptq", "awq") else fp8
        parts, meaning[tensor_name] = pack(tensor.float(), case)
        prefix = tensor_name.removesuffix(".weight")
        stored.update({f"{prefix}.{part}": value.contiguous() for part, value in parts.items()})
    plain = folder / "plain"
    plain.mkdir()
    save_file({k: v.contiguous() for k, v in meaning.items()}, plain / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(folder / "source" / "config.json", plain / "config.json")
    config = legacy_config(json.loads((folder / "source" / "config.json").read_text()))
    config["compression_config" if case.get("compression") else "quantization_config"] = config_of(case)
    return make.load(plain), tokens, stored, config


def make_case(name, case):
    rejected = []
    for seed in range(MAX_SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            try:
                model, tokens, stored, config = build(name, case, seed, Path(folder))
                logits, greedy, error = make.check_seed(model, tokens)
                break
            except make.Rejected as reason:
                rejected.append(str(reason))
    else:
        raise AssertionError(f"{name}: no usable seed: {rejected[-5:]}")
    target = FIXTURES / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    save_file(stored, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(
        {"tokens": torch.tensor(tokens), "logits": logits.contiguous(), "greedy": torch.tensor(greedy)},
        target / "reference.safetensors",
        metadata={
            "case": name, "seed": str(seed), "prompt_length": str(make.PROMPT), "f64_rel_l2": f"{error:.3e}",
            "exact": str(case["exact"]).lower(), "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
        },
    )
    for file in target.iterdir():
        file.chmod(0o644)
        if file.suffix == ".safetensors":
            make.sort_header(file)
    size = sum(f.stat().st_size for f in target.iterdir()) // 1024
    print(f"{name}: {case['family']}, seed {seed}, {size} KiB, f64 {error:.1e}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    make.assert_plain_paths()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    failures = []
    for name, case in CASES.items():
        if options.cases and name not in options.cases:
            continue
        if options.list:
            print(name, case["family"])
        elif options.force or not (FIXTURES / name / "reference.safetensors").exists():
            try:
                make_case(name, case)
            except Exception as error:  # still make the other cases
                failures.append(f"{name}: {type(error).__name__}: {error}")
                print("FAILED", failures[-1], flush=True)
    if failures:
        sys.exit("failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
