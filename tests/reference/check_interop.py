"""Checks that `kinglet quantize` writes the same as mlx-lm, and that mlx-lm can read it.

    python interop_models.py MODELS                      # with transformers: random checkpoints of every family
    python check_interop.py KINGLET MODELS WORK          # with mlx-lm (requirements-mlx.txt)

For every checkpoint and every quantization:

- with `--method round`, every tensor of the result has the same name, type, shape and bytes as mlx-lm's (mlx-lm's loading, renaming and
  `nn.quantize`, with the formats in the result's config.json);
- mlx-lm loads the result and, with every float widened to f32, computes the same logits as `kinglet logits` (relative L2).

Families that mlx-lm doesn't support are only quantized and run. Exits with status 1 if anything differs.

    python check_interop.py --save KINGLET ../fixtures ../fixtures/quantize

writes mlx-lm's results for some fixtures, for the tests of the command line.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import load_model
from safetensors.numpy import load_file

WAYS = {
    "4": ["--bits", "4", "--group-size", "64"],
    "2g128": ["--bits", "2", "--group-size", "128"],
    "3g32": ["--bits", "3", "--group-size", "32"],
    "5": ["--bits", "5", "--max-shard-size", "100KB"],
    "6g32": ["--bits", "6", "--group-size", "32"],
    "8": ["--bits", "8"],
    "mxfp4": ["--mode", "mxfp4"],
    "mxfp8": ["--mode", "mxfp8"],
    "nvfp4": ["--mode", "nvfp4"],
    "mixed": ["--bits", "4", "--recipe", "mixed", "--target-bits", "6.5"],
    "rules": ["--bits", "4", "--recipe", "RULES"],
    "search": ["--bits", "4", "--method", "search"],
}
RULES = [
    {"match": ["*.mlp.gate", "*.router.layer", "*.block_sparse_moe.gate"], "bits": 8},
    {"match": ["model.embed_tokens", "backbone.embeddings"], "keep": True},
    {"match": "lm_head", "mode": "mxfp8"},
    {"match": ["*.layers.0.*", "*.blocks.0.*"], "bits": 6, "group_size": 32},
    {"match": ["*down_proj", "*out_proj"], "mode": "nvfp4"},
]
SAVED = {
    "llama/plain": ["--bits", "4", "--group-size", "32"],
    "mixtral/plain": ["--mode", "nvfp4"],
    "granitemoehybrid/plain": ["--mode", "nvfp4"],
    "mamba/plain": ["--mode", "nvfp4"],
}
LACKING = ("xlstm", "bamba", "granitemoeshared", "lfm3", "zamba")  # not supported by mlx-lm


def run(*line):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, line[:3]))}: {done.stderr.strip()}")
    return done.stdout


def raw(array):
    """The bytes of an mlx array."""
    return bytes(memoryview(array.view(mx.uint8).flatten())) if array.size else b""


def tensors(folder):
    found = {}
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for file in sorted(set(index.values())):
        part = mx.load(str(folder / file))
        assert all(index[name] == file for name in part), f"{file}: the index disagrees"
        found.update(part)
    assert set(found) == set(index)
    return found


def by_mlx(source, ours, work):
    """mlx-lm's result for the source, with the formats that our config.json states."""
    plain = work / "plain"
    shutil.rmtree(plain, ignore_errors=True)
    plain.mkdir()
    for file in source.glob("model*.safetensors"):
        (plain / file.name).symlink_to(file.resolve())
    config = json.loads((ours / "config.json").read_text())
    stated = config.pop("quantization")
    assert config.pop("quantization_config") == stated
    (plain / "config.json").write_text(json.dumps(config))
    model, _ = load_model(plain, lazy=True)
    quantized = {name[:-len(".scales")] for name in tensors(ours) if name.endswith(".scales")}
    default = {key: stated[key] for key in ("group_size", "bits", "mode")}
    nn.quantize(model, class_predicate=lambda path, _: path in quantized and stated.get(path, default))
    return dict(tree_flatten(model.parameters()))


def same_tensors(ours, theirs):
    wrong = [f"{name} is only in {'ours' if name in ours else 'theirs'}" for name in set(ours) ^ set(theirs)]
    for name in sorted(set(ours) & set(theirs)):
        a, b = ours[name], theirs[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            wrong.append(f"{name}: {a.dtype} {a.shape}, mlx {b.dtype} {b.shape}")
        elif raw(a) != raw(b):
            wrong.append(f"{name}: other bytes")
    return wrong


def save(kinglet, fixtures, out):
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for name, way in SAVED.items():
            ours = Path(work) / "ours"
            shutil.rmtree(ours, ignore_errors=True)
            run(kinglet, "quantize", "--model", fixtures / name, "--out", ours, "--method", "round", *way)
            theirs = by_mlx(fixtures / name, ours, Path(work))
            wrong = same_tensors(tensors(ours), theirs)
            mx.save_safetensors(str(out / f"{name.split('/')[0]}.safetensors"), theirs, metadata={"format": "mlx"})
            print(f"{name}: {len(theirs)} tensors, {len(wrong)} differ {wrong[:4]}")


def relative_l2(a, b):
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinglet", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--save", action="store_true", help="write mlx-lm's results for fixtures")
    parser.add_argument("--only", default="", help="only checkpoints whose name contains this")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--tolerance", type=float, default=1e-5)
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    if options.save:
        return save(options.kinglet, options.models, options.work)
    options.work.mkdir(parents=True, exist_ok=True)
    rules = options.work / "rules.json"
    rules.write_text(json.dumps(RULES))
    failures, worst = 0, 0.0
    for source in sorted(path for path in options.models.iterdir() if options.only in path.name):
        tokens = json.loads((source / "tokens.json").read_text())
        line = []
        for way in options.ways:
            ours = options.work / "quantized"
            shutil.rmtree(ours, ignore_errors=True)
            method = [] if "--method" in WAYS[way] else ["--method", "round"]
            arguments = [str(rules) if part == "RULES" else part for part in WAYS[way]]
            try:
                run(options.kinglet, "quantize", "--model", source, "--out", ours, *method, *arguments)
                logits = options.work / "logits.safetensors"
                text = ",".join(map(str, tokens))
                run(options.kinglet, "logits", "--activations", "f32", "--model", ours, "--tokens", text, "--out", logits)
                got = load_file(logits)["logits"]
                assert np.isfinite(got).all(), "logits that are not finite"
                if source.name.startswith(LACKING):
                    line.append(f"{way}: runs")
                    continue
                if method:
                    wrong = same_tensors(tensors(ours), by_mlx(source, ours, options.work))
                    assert not wrong, f"{len(wrong)} tensors differ: " + "; ".join(wrong[:4])
                model, _ = load_model(ours)
                model.update(tree_map(
                    lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x, model.parameters()))
                reference = np.array(model(mx.array([tokens]))[0].astype(mx.float32))
                error = relative_l2(got, reference)
                worst = max(worst, error)
                assert error <= options.tolerance, f"logits are {error:.1e} from mlx-lm's"
                line.append(f"{way}: {error:.0e}")
            except Exception as problem:  # report it and go on with the other cases
                failures += 1
                line.append(f"{way}: FAILED {type(problem).__name__}: {problem}")
        print(f"{source.name}: " + ", ".join(line), flush=True)
    print(f"{failures} failed; logits at most {worst:.1e} from mlx-lm's")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
