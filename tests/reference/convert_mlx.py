"""Quantizes checkpoints with mlx-lm: a worker of make_quantized.py, run with the Python of requirements-mlx.txt.

Reads one job as JSON per line of stdin and answers each with a line of JSON on stdout. A job:

    source, target   folders; the source contains a checkpoint as saved by `transformers`
    quantize         false: only convert
    mode, bits, group_size, dtype, predicate   as for `mlx_lm.convert` (`dtype` and others may be null); a predicate may also be an
                     object of module path suffixes: {"v_proj": {"bits": 6, ..}, "lm_head": false}
    global_scale     true: `quantize_model(.., global_scale=True)`, which the command line does not offer
    raw              true: mlx-lm doesn't support the family; its matrices are quantized under their original names
    shard            megabytes per file, to split the result into several
"""

import contextlib
import json
import shutil
import sys
import traceback
from pathlib import Path

import mlx.core as mx
import mlx_lm.utils
from mlx_lm.convert import convert
from mlx_lm.utils import load, quantize_model, save

DEFAULTS = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}


def by_ending(rules, group_size):
    """Makes a predicate from an object of path suffixes."""

    def predicate(path, module):
        for ending, rule in rules.items():
            if path.endswith(ending):
                return dict(rule) if isinstance(rule, dict) else rule
        return True

    return predicate


def shards(weights, most):
    """Like mlx-lm's function, but also for sizes below a gigabyte."""
    parts, size = [{}], 0
    for name, tensor in weights.items():
        if size + tensor.nbytes > most and parts[-1]:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    return parts


def raw(job):
    """Quantizes the matrices of a family that mlx-lm doesn't support."""
    source, target = Path(job["source"]), Path(job["target"])
    target.mkdir(parents=True)
    mode = job.get("mode") or "affine"
    group, bits = DEFAULTS[mode]
    top = {"group_size": job.get("group_size") or group, "bits": job.get("bits") or bits, "mode": mode}
    stated, out = dict(top), {}
    dtype = getattr(mx, job["dtype"]) if job.get("dtype") else None
    rules = job.get("predicate") or {}
    for name, tensor in mx.load(str(source / "model.safetensors")).items():
        if dtype is not None and mx.issubdtype(tensor.dtype, mx.floating):
            tensor = tensor.astype(dtype)
        path = name.removesuffix(".weight")
        rule = next((r for ending, r in rules.items() if path.endswith(ending)), True)
        params = rule if isinstance(rule, dict) else top
        params = {**dict(zip(("group_size", "bits"), DEFAULTS[params.get("mode", "affine")])), **params}
        matrix = tensor.ndim >= 2 and name.endswith(".weight") and "norm" not in name
        if not matrix or rule is False or tensor.shape[-1] % params["group_size"]:
            out[name] = tensor
            continue
        if isinstance(rule, dict):
            stated[path] = rule
        parts = mx.quantize(tensor, params["group_size"], params["bits"], params.get("mode", "affine"))
        for part, value in zip(("weight", "scales", "biases"), parts):
            out[f"{path}.{part}"] = value
    mx.save_safetensors(str(target / "model.safetensors"), out, metadata={"format": "mlx"})
    config = json.loads((source / "config.json").read_text())
    config["quantization"] = config["quantization_config"] = stated
    (target / "config.json").write_text(json.dumps(config, indent=4, sort_keys=True))


MAKE_SHARDS = mlx_lm.utils.make_shards


def run(job):
    # The command line has no option for it.
    mlx_lm.utils.make_shards = MAKE_SHARDS
    if job.get("shard"):
        mlx_lm.utils.make_shards = lambda weights, *rest: shards(weights, job["shard"] * 1e6)
    target = Path(job["target"])
    shutil.rmtree(target, ignore_errors=True)
    if job.get("raw"):
        return raw(job)
    predicate = job.get("predicate")
    if isinstance(predicate, dict):
        predicate = by_ending(predicate, job.get("group_size"))
    if job.get("global_scale"):
        model, tokenizer, config = load(job["source"], return_config=True, lazy=True)
        if job.get("dtype"):
            model.set_dtype(getattr(mx, job["dtype"]))
        model, config = quantize_model(
            model, config, job.get("group_size"), job.get("bits"), job["mode"], global_scale=True,
            quant_predicate=predicate,
        )
        return save(target, job["source"], model, tokenizer, config)
    convert(
        job["source"], str(target), quantize=job.get("quantize", True), q_group_size=job.get("group_size"),
        q_bits=job.get("bits"), q_mode=job.get("mode") or "affine", dtype=job.get("dtype"), quant_predicate=predicate,
    )


def main():
    mx.set_default_device(mx.cpu)
    for line in sys.stdin:
        answer = {"ok": True}
        try:
            with contextlib.redirect_stdout(sys.stderr):
                run(json.loads(line))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
