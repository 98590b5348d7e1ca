"""Makes the cases of `kinglet_hybrid`, whose reference is the plain PyTorch in `blocks/`.

    python make_blocks.py                   # all missing cases
    python make_blocks.py moe mlstm --force # some cases again
    python make_blocks.py --check           # recompute the logits of existing cases and compare
    python make_blocks.py --mlx PYTHON      # all missing quantized cases; see make_quantized.py
    python make_blocks.py --list

Seeds are rejected and fields are seen to matter as in `make.py`. A case has the same files, with two differences: the other
spelling of the config, `config.legacy.json`, is the one with every default written out, and there is no cached decoding to compare with.
Quantized cases are in `fixtures/quantized/`, as those of other families that mlx-lm lacks.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import make  # noqa: I001  sets the environment of transformers
import torch
from safetensors.torch import load_file, save_file

from blocks.config import spelled_out
from blocks.model import Model
from cases_blocks import CASES, QUANTIZED, changed
from f64 import rel_l2
from make import GREEDY, PROMPT, Rejected
from mlx_names import read
from weights import _draw, _normal, _uniform

FIXTURES = make.FIXTURES / "kinglet_hybrid"
MAX_F64_ERROR = 1e-6
# Sharper attention, routing and gates than 1/sqrt(fan_in) gives, so that they matter.
GAINS = {".q.weight": 1.6, ".k.weight": 1.6, "router.weight": 1.5, "igate.weight": 2.0, "fgate.weight": 2.0, "gates.weight": 1.5}


def draw(name, shape, g):
    """A random tensor around the values of trained models."""
    if name.endswith("igate.bias"):
        return -1.0 + _normal(shape, g, 1.5)
    if name.endswith("fgate.bias"):
        return _uniform(shape, g, 1.0, 6.0)
    if name.endswith("gates.bias"):  # input, forget, cell, output
        i, f, z, o = _normal(shape, g, 0.5).chunk(4)
        return torch.cat([i - 0.5, _uniform(f.shape, g, 0.5, 4.0), z, o])
    return _draw(name, shape, g)


def randomize(case, seed):
    """Random tensors of a case, in f32."""
    g = torch.Generator().manual_seed(seed)
    model = Model(case.config, {})
    for name, shape in sorted(model.shapes().items()):
        value = draw(name, shape, g)
        for fragment, gain in {**GAINS, **case.gains}.items():
            if fragment in name:
                value = value * gain
        model.tensors[name] = value
    # A forget gate that is used as a logarithm must be negative mostly, or the memory explodes.
    for i, layer in enumerate(model.config.layers()):
        for j, part in enumerate(layer):
            if getattr(part.layer, "forget_gate", None) == "exp" and getattr(part.layer, "gating", "exp") == "exp":
                lower_forget_gate(model.tensors, f"model.layers.{i}.{j}.")
    if model.config.tie_word_embeddings:
        # As in `weights.py`: with a positive norm, a tied head repeats the token that it has just read.
        model.tensors["model.norm.weight"] = _normal((model.config.hidden_size,), g)
    return model


def lower_forget_gate(tensors, prefix):
    name = prefix + "fgate.bias"
    if name in tensors:
        tensors[name] -= 6.5
    else:
        inner = len(tensors[prefix + "gates.bias"]) // 4
        tensors[prefix + "gates.bias"][inner:2 * inner] -= 4.2


def scale_logits(model, tokens, std):
    """Scales the head, or the final norm of a tied one, for a given spread of the logits."""
    factor = std / model.forward(tokens, capped=False).std()
    tied = model.config.tie_word_embeddings
    for name in ["model.norm.weight", "model.norm.bias"] if tied else ["lm_head.weight"]:
        if name in model.tensors:
            model.tensors[name] = model.tensors[name] * factor


def build(case, seed):
    """A random model of the case, its weights rounded to the stored dtype, and its tokens."""
    model = randomize(case, seed)
    g = torch.Generator().manual_seed(seed + 1_000_000)
    tokens = torch.randint(0, model.config.vocab_size, (case.length,), generator=g).tolist()
    scale_logits(model, tokens, case.logit_std)
    model.tensors = {name: t.to(getattr(torch, case.dtype)).float() for name, t in model.tensors.items()}
    return model, tokens


def forward(model, tokens):
    """The logits of a list of tokens, if none of the choices made is near a tie."""
    gaps = []
    logits = model.forward(tokens, gaps)
    if min(gaps, default=float("inf")) < make.MIN_ROUTER_GAP:
        raise Rejected("choice near a tie")
    return logits


def greedy(model, prompt):
    """Greedy decoding with the whole sequence recomputed at each step."""
    tokens = list(prompt)
    for _ in range(GREEDY):
        top = forward(model, tokens)[-1].topk(2)
        if float(top.values[0] - top.values[1]) < make.MIN_GREEDY_GAP:
            raise Rejected("greedy near-tie")
        tokens.append(int(top.indices[0]))
    if len(set(tokens[len(prompt):])) < make.MIN_GREEDY_DISTINCT:
        raise Rejected("greedy repeats itself")
    return tokens[len(prompt):]


def outputs(model, tokens):
    """Logits, greedy tokens and the distance from float64, unless they depend on rounding."""
    logits = forward(model, tokens)
    if not torch.isfinite(logits).all():
        raise Rejected("not finite")
    top = logits.topk(2).values
    if float((top[:, 0] - top[:, 1]).min()) < make.MIN_ARGMAX_GAP:
        raise Rejected("argmax near-tie")
    error = rel_l2(logits, model.to(torch.float64).forward(tokens))
    if error > MAX_F64_ERROR:
        raise Rejected(f"f32 is {error:.2e} from f64")
    return logits, greedy(model, tokens[:PROMPT]), error


def load(folder):
    """A case as saved, in f32."""
    config = json.loads((folder / "config.json").read_text())
    return Model(config, {name: t.float() for name, t in load_file(folder / "model.safetensors").items()})


def save(folder, config, tensors, dtype):
    """Writes config.json and the weights."""
    write_config(folder / "config.json", config)
    stored = {name: t.to(dtype).contiguous() for name, t in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def save_reference(folder, case, seed, tokens, logits, choices, error, **info):
    metadata = {
        "case": case.path,
        "seed": str(seed),
        "prompt_length": str(PROMPT),
        "greedy_by": "full recompute without a cache",
        "f64_rel_l2": f"{error:.3e}",
        "logit_std": f"{float(logits.std()):.3f}",
        "torch": torch.__version__.split("+")[0],
        "weights_dtype": case.dtype,
        "note": case.note,
        **info,
    }
    file = folder / "reference.safetensors"
    save_file({"tokens": torch.tensor(tokens), "logits": logits.contiguous(), "greedy": torch.tensor(choices)}, file, metadata=metadata)
    make.sort_header(file)


def seeded(case, prepare=build):
    """The first usable seed with its model, tokens and outputs."""
    rejected = []
    for seed in range(case.seed, case.seed + make.MAX_SEEDS):
        model, tokens = prepare(case, seed)
        try:
            return seed, model, tokens, outputs(model, tokens)
        except Rejected as reason:
            rejected.append(str(reason))
    raise AssertionError(f"{case.path}: no usable seed: {rejected[-5:]}")


def make_case(case):
    folder = FIXTURES / case.name
    seed, model, tokens, (logits, choices, error) = seeded(case)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save(folder, case.config, model.tensors, getattr(torch, case.dtype))
    write_config(folder / "config.legacy.json", spelled_out(case.config))
    make.sort_header(folder / "model.safetensors")
    again = load(folder)
    assert torch.equal(again.forward(tokens), logits), f"{case.path}: the saved model differs"
    again.config = Model(json.loads((folder / "config.legacy.json").read_text()), {}).config
    assert torch.equal(again.forward(tokens), logits), f"{case.path}: config.legacy.json describes a different model"
    moved = ablate(case, model.tensors, tokens, logits)
    save_reference(folder, case, seed, tokens, logits, choices, error)
    size = finish(folder)
    print(f"{case.path}: seed {seed}, {size:.1f} KiB, f64 {error:.1e}, " + ", ".join(f"{k} {v:.1e}" for k, v in moved.items()), flush=True)


def finish(folder):
    """Makes the files alike everywhere. Returns their size in KiB."""
    for file in folder.iterdir():
        file.chmod(0o644)
        if file.suffix == ".safetensors":
            make.sort_header(file)
    return sum(f.stat().st_size for f in folder.iterdir()) / 1024


def write_config(path, values):
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def ablate(case, tensors, tokens, logits):
    """Asserts that each special field of the case changes the logits. Returns the relative differences."""
    moved = {}
    for label, ablation in case.ablations.items():
        moved[label] = rel_l2(Model(*changed(case.config, tensors, ablation)).forward(tokens), logits)
        if not moved[label] >= case.ablation_floor:
            raise AssertionError(f"{case.path}: `{label}` changes the logits by only {moved[label]:.1e}")
    return moved


def dequantized(folder, shapes):
    """The model of a quantized case with its decoded weights in f32, and the formats found."""
    tensors, formats = read(folder, lambda name: shapes[name][-1])
    assert {name: tuple(t.shape) for name, t in tensors.items()} == shapes, folder
    return Model(json.loads((folder / "config.json").read_text()), tensors), formats


def make_quantized(bits, dtype, case, worker):
    """Makes a quantized case. What is random is drawn before the weights are quantized."""
    target = make.FIXTURES / "quantized" / f"kinglet_hybrid-{case.name}"
    with tempfile.TemporaryDirectory() as temporary:
        source, folder = Path(temporary) / "source", Path(temporary) / "target"
        source.mkdir()
        found = {}

        def prepare(case, seed):
            model, tokens = build(case, seed)
            save(source, case.config, model.tensors, torch.float32)
            worker.run(source=str(source), target=str(folder), raw=True, mode="affine", bits=bits, group_size=32, dtype=dtype)
            quantized, found["formats"] = dequantized(folder, model.shapes())
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target)
            shutil.rmtree(folder)
            return quantized, tokens

        seed, _, tokens, (logits, choices, error) = seeded(case, prepare)
    formats = " ".join(sorted({f"{mode}-{bits}-{group}" for bits, group, mode in found["formats"].values()}))
    save_reference(target, case, seed, tokens, logits, choices, error, formats=formats, weights_dtype=dtype)
    print(f"quantized {case.path}: seed {seed}, {finish(target):.1f} KiB, f64 {error:.1e}, {formats}", flush=True)


def check_quantized(case):
    """Recomputes the logits of a committed quantized case."""
    folder = make.FIXTURES / "quantized" / f"kinglet_hybrid-{case.name}"
    reference = load_file(folder / "reference.safetensors")
    model, _ = dequantized(folder, Model(case.config, {}).shapes())
    error = rel_l2(model.forward(reference["tokens"].tolist()), reference["logits"])
    print(f"quantized {case.path}: {error:.1e}")
    return error <= 1e-6


def check(case):
    """Recomputes the logits of a committed case."""
    folder = FIXTURES / case.name
    reference = load_file(folder / "reference.safetensors")
    error = rel_l2(load(folder).forward(reference["tokens"].tolist()), reference["logits"])
    print(f"{case.path}: {error:.1e}")
    return error <= 1e-6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names of cases; default: all")
    parser.add_argument("--mlx", help="Python with the packages of requirements-mlx.txt: makes the quantized cases")
    parser.add_argument("--force", action="store_true", help="make existing cases again")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.mlx:
        from make_quantized import Worker
        worker = Worker(options.mlx)
        for bits, dtype, case in QUANTIZED:
            done = (make.FIXTURES / "quantized" / f"kinglet_hybrid-{case.name}" / "reference.safetensors").exists()
            if options.force or not done:
                make_quantized(bits, dtype, case, worker)
        return
    names = [case.name for case in CASES]
    for wanted in options.cases:
        if wanted not in names:
            parser.error(f"no case is called {wanted}")
    failed = []
    if options.check and not options.cases:
        failed += [case.path for _, _, case in QUANTIZED if not check_quantized(case)]
    for case in CASES:
        done = (FIXTURES / case.name / "reference.safetensors").exists()
        if options.cases and case.name not in options.cases:
            continue
        if options.list:
            print(case.path)
        elif options.check:
            failed += [case.path] if done and not check(case) else []
        elif options.force or not done:
            try:
                make_case(case)
            except Exception as error:  # still make the other cases
                shutil.rmtree(FIXTURES / case.name, ignore_errors=True)
                failed.append(f"{case.path}: {type(error).__name__}: {error}")
                print("FAILED", failed[-1], flush=True)
    if failed:
        sys.exit("failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
