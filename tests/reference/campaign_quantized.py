"""Converts random checkpoints with mlx-lm, runs `kinglet logits` on each, and compares with `transformers` on the dequantized weights.

    python campaign_quantized.py --mlx PYTHON --kinglet ../../target/release/kinglet --count 500 --seed 1

    ... --flag=--backend=wgpu --flag=--activations=f32 --tolerance 1e-4     the same on wgpu

Draws the family, its sizes, the stored type, the mode, bits and group, a recipe or a predicate by layer, and the spelling of the config.
Prints what failed, with the seed that reproduces it (--seed S --count 1), and the counts by family, format, recipe and spelling. Checkpoints
that mlx-lm refuses to convert are counted separately. The tolerance is that of the conformance tests.
"""

import argparse
import collections
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

import make
import make_quantized
from cases import Case
from cases_quantized import (
    _BASES, _LACKING, _affine, _no_copy, _only_copy, _top_only, Quantized,
)
from f64 import rel_l2

TOLERANCE = 1e-5
TIE = 1e-4
MODES = {"affine": None, "mxfp4": 4, "mxfp8": 8, "nvfp4": 4}


def sizes(family, draw):
    """A config of `family` with random sizes; matrices whose rows aren't a whole number of groups stay dense."""
    config = dict(_BASES[family])
    hidden = draw.choice([64, 96, 128, 192])
    config.update(hidden_size=hidden, vocab_size=draw.choice([64, 97, 130]), num_hidden_layers=draw.choice([1, 2, 3]))
    inner = draw.choice([32, 64, 72, 96, 128])
    if "num_attention_heads" in config:
        head_dim = draw.choice([8, 16, 32])
        heads = hidden // head_dim
        config["num_attention_heads"] = heads
        config["num_key_value_heads"] = draw.choice([n for n in range(1, heads + 1) if heads % n == 0])
        if "head_dim" in config:
            config["head_dim"] = draw.choice([head_dim, 24])
        config["intermediate_size"] = inner
    for key in ("attention_bias", "mlp_bias"):
        if family in ("llama", "granite", "bamba") and draw.random() < 0.3:
            config[key] = True
    if family not in ("xlstm",):
        config["tie_word_embeddings"] = draw.random() < 0.4
    if family in ("mixtral", "olmoe"):
        config.update({"num_local_experts" if family == "mixtral" else "num_experts": draw.choice([2, 3, 5])})
        if family == "olmoe":
            config["num_key_value_heads"] = config["num_attention_heads"]
    if family == "qwen3_moe":
        config.update(num_experts=draw.choice([3, 4]), moe_intermediate_size=draw.choice([32, 64, 96]), mlp_only_layers=[])
    if family in ("granitemoehybrid", "bamba"):
        expand = draw.choice([1, 2])
        config.update(mamba_expand=expand, mamba_d_head=16, mamba_n_heads=expand * hidden // 16,
                      mamba_d_state=draw.choice([8, 16]), mamba_n_groups=draw.choice([1, 2]))
        layers = max(2, config["num_hidden_layers"])
        config["num_hidden_layers"] = layers
        if family == "bamba":
            config["attn_layer_indices"] = [draw.randrange(layers)]
        else:
            attention = draw.randrange(layers)
            config["layer_types"] = ["full_attention" if i == attention else "linear_attention" for i in range(layers)]
            config["shared_intermediate_size"] = draw.choice([32, 64, 96])
            if draw.random() < 0.4:
                # mlx-lm reads the dense network's width from the other field.
                config.update(num_local_experts=0, num_experts_per_tok=0, intermediate_size=config["shared_intermediate_size"])
    if family in ("mamba", "falcon_mamba"):
        config.update(expand=draw.choice([1, 2]), time_step_rank=draw.choice([4, 32, 64]), state_size=draw.choice([8, 16, 32]),
                      use_bias=draw.random() < 0.3)
        config["intermediate_size"] = config["expand"] * hidden
    if family == "mamba2":
        expand = draw.choice([1, 2])
        config.update(expand=expand, head_dim=16, num_heads=expand * hidden // 16, n_groups=draw.choice([1, 2]),
                      use_bias=draw.random() < 0.3)
    if family == "xlstm":
        config.update(num_heads=draw.choice([1, 2, 4]), ffn_proj_factor=draw.choice([1.0, 1.5]), use_bias=draw.random() < 0.3)
    return config


def job(family, draw):
    """The options for mlx-lm, and a name for them."""
    mode = draw.choice(["affine"] * 4 + ["mxfp4", "mxfp8", "nvfp4"])
    if mode == "affine":
        told = _affine(draw.choice([2, 3, 4, 5, 6, 8]), draw.choice([32, 64, 128]), mode=mode)
    else:
        told = {"mode": mode}
    kind = draw.choice(["plain"] * 4 + ["recipe", "by layer", "by layer", "unquantized", "global scale"])
    if family in _LACKING and kind in ("recipe", "unquantized", "global scale"):
        kind = "by layer"
    if kind == "recipe":
        recipe = draw.choice(["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])
        return {"predicate": recipe, "group_size": draw.choice([None, 32, 64])}, recipe
    if kind == "by layer":
        names = ["lm_head", "embed_tokens", "embeddings", "q_proj", "v_proj", "o_proj", "down_proj", "gate_proj", "in_proj",
                 "out_proj", "x_proj", "dt_proj", "gate", "router.layer", "proj_down", "output_linear", ".q", ".k"]
        rules = {}
        for name in draw.sample(names, draw.choice([2, 4, 6])):
            other = draw.choice(["affine", "affine", "affine", "mxfp4", "mxfp8", "nvfp4", False])
            if other == "affine":
                rules[name] = _affine(draw.choice([2, 3, 4, 5, 6, 8]), draw.choice([32, 64]))
                if draw.random() < 0.5:
                    rules[name]["mode"] = "affine"
                elif mode != "affine" and family not in _LACKING:
                    # mlx-lm would otherwise assume the top-level mode for these.
                    rules[name]["mode"] = "affine"
            elif other:
                rules[name] = {"group_size": {"nvfp4": 16}.get(other, 32), "bits": MODES[other], "mode": other}
            else:
                rules[name] = False
        return {**told, "predicate": rules}, kind
    if kind == "unquantized":
        return {"quantize": False}, kind
    if kind == "global scale":
        return {"mode": "nvfp4", "bits": 4, "group_size": 16, "global_scale": True}, kind
    return told, kind


def drop_everything(config):
    config.pop("quantization", None)
    config.pop("quantization_config", None)


SPELLINGS = {"as written": None, "old": _no_copy, "copy only": _only_copy, "top only": _top_only, "none": drop_everything}


def spell(folder, spelling):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if "quantization" in config and SPELLINGS[spelling]:
        SPELLINGS[spelling](config)
        path.write_text(json.dumps(config))


def run_one(seed, worker, options):
    """Returns None or what went wrong, and the categories to count it under."""
    draw = random.Random(seed)
    family = draw.choice(sorted(_BASES))
    told, kind = job(family, draw)
    if family in _LACKING:
        told["raw"] = True
    dtype = draw.choice(["float32", "float16", "bfloat16"])
    gains = {"embed_tokens": 1 / 6.0} if family.startswith("granite") else {}
    base = Case(family, "campaign", sizes(family, draw), length=draw.choice([17, 40]), dtype=dtype, gains=gains)
    case = Quantized(base, "campaign", told, [])
    spelling = draw.choice(sorted(SPELLINGS))
    words = [family, kind, dtype, spelling]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source, target = folder / "source", folder / "target"
        source.mkdir()
        model, tokens = make.build(base, seed)
        model.config.save_pretrained(source)
        v5 = (source / "config.json").read_text()
        try:
            shapes = make_quantized.convert(case, model, worker, source, target)
        except RuntimeError as error:
            return "mlx", f"{family} {told}: {error}", words
        (source / "config.v5.json").write_text(v5)
        plain, formats = make_quantized.dequantized(case, shapes, source, target, folder / "plain")
        words += make_quantized.describe(formats)
        expected = make.forward(plain, tokens)
        if not torch.isfinite(expected).all():
            return "skipped", "the reference is not finite", words
        if make.router_gap(plain, tokens) < 1e-4:
            return "skipped", "a router hangs on rounding", words
        spell(target, spelling)
        out = folder / "logits.safetensors"
        command = [options.kinglet, "logits", "--model", target, "--tokens", ",".join(map(str, tokens)), "--out", out]
        done = subprocess.run([str(part) for part in command + options.flag], capture_output=True, text=True)
        if done.returncode:
            return "failed", f"{family} {told} {spelling}: {done.stderr.strip()[-400:]}", words
        logits = load_file(out)["logits"].float()
        error = rel_l2(logits, expected)
        top = expected.topk(2).values
        clear = (top[:, 0] - top[:, 1]) > TIE
        differ = int(((logits.argmax(1) != expected.argmax(1)) & clear).sum())
        # `not <=` so that a NaN fails.
        if not error <= options.tolerance or differ:
            return "failed", f"{family} {told} {spelling} {base.config}: relative L2 {error:.2e}, {differ} argmax differ", words
        return "passed", error, words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlx", required=True, help="Python with the packages of requirements-mlx.txt")
    parser.add_argument("--kinglet", type=Path, required=True, help="the kinglet executable")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="relative L2; use 1e-4 on wgpu")
    parser.add_argument("--flag", action="append", default=[], help="option to pass to kinglet, such as --activations=f32")
    options = parser.parse_args()
    make.assert_plain_paths()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    worker = make_quantized.Worker(options.mlx)
    results, words, worst = collections.Counter(), collections.Counter(), 0.0
    refusals = collections.Counter()
    for seed in range(options.seed, options.seed + options.count):
        try:
            result, what, under = run_one(seed, worker, options)
        except Exception as error:  # errors of this script are counted separately
            result, what, under = "broken", f"{type(error).__name__}: {error}", []
        results[result] += 1
        if result in ("failed", "broken"):
            print(f"seed {seed} {result}: {what}", flush=True)
        if result == "mlx":
            refusals[what.split(": ", 1)[1][:100]] += 1
        if result == "passed":
            words.update(under)
            worst = max(worst, float(what))
    print(dict(results), f"largest relative L2 {worst:.2e}")
    print("passed:", ", ".join(f"{word} {count}" for word, count in sorted(words.items())))
    for why, count in refusals.most_common():
        print(f"refused by mlx-lm {count} times: {why}")
    if results["failed"] or results["broken"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
