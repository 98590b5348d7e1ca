"""Makes the conformance fixtures of quantized checkpoints: tiny random models, converted by mlx-lm.

    python make_quantized.py --mlx PYTHON                  # all missing cases; PYTHON needs the packages of requirements-mlx.txt
    python make_quantized.py --mlx PYTHON llama mixtral/affine4 --force
    python make_quantized.py --check                       # recompute the logits of existing cases and compare
    python make_quantized.py --list

The expected logits are those of `transformers` on the dequantized weights, all in f32, because mlx-lm computes with less precision. Families
that mlx-lm doesn't support are quantized with `mx.quantize` under their original names. Cases: cases_quantized.py.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

import make
from cases_quantized import all_cases
from f64 import rel_l2
from legacy import legacy_config
from mlx_names import columns, original, read, without_factors, without_ones

FIXTURES = make.FIXTURES / "quantized"
MAX_SEEDS = 60
WITH_ONES = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")  # mlx-lm adds 1 to their norms' weights


class Worker:
    """The worker process with MLX."""

    def __init__(self, python):
        script = Path(__file__).resolve().with_name("convert_mlx.py")
        self.process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def run(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "the MLX process ended"}')
        if "error" in answer:
            raise RuntimeError(f"mlx: {answer['error']}")


def tokenizer(folder, vocab):
    """Writes the smallest tokenizer that mlx-lm can load."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def wanted_by_mlx(config):
    """The config with the fields that mlx-lm has no default for, at the defaults of `transformers`."""
    if config["model_type"] in ("mamba", "falcon_mamba"):
        config.setdefault("time_step_rank", -(-config["hidden_size"] // 16))
    if config["model_type"] == "mamba2":
        config.setdefault("intermediate_size", int(config["expand"] * config["hidden_size"]))
        config.setdefault("tie_word_embeddings", False)
    if config["model_type"] == "lfm2":
        config.setdefault("block_ffn_dim_multiplier", 1.0)
        config.setdefault("block_auto_adjust_ff_dim", True)
        config.setdefault("conv_bias", False)
        config.setdefault("conv_L_cache", 3)
    if config["model_type"] == "lfm2_moe":
        for key, value in dict(conv_bias=False, conv_L_cache=3, use_expert_bias=True, norm_topk_prob=True).items():
            config.setdefault(key, value)
    if config["model_type"] == "granitemoe":
        config.setdefault("attention_bias", False)
        config.setdefault("rope_theta", 10000.0)
    if config["model_type"] == "olmo_hybrid":
        config.setdefault("attention_bias", False)
        config.setdefault("linear_allow_neg_eigval", True)
    if config["model_type"] == "qwen3_next":
        config.setdefault("partial_rotary_factor", 0.25)
    if config["model_type"] in ("qwen3_5", "qwen3_5_moe"):
        # It doesn't read `layer_types`.
        inner = config["text_config"]
        inner["full_attention_interval"] = inner["layer_types"].index("full_attention") + 1
    if config["model_type"] == "nemotron_h":
        config.setdefault("mamba_proj_bias", config["use_bias"])
        config.setdefault("attention_bias", False)
        config.setdefault("n_group", 1)
        config.setdefault("topk_group", 1)
        config.setdefault("routed_scaling_factor", 1.0)
    if config["model_type"] == "falcon_h1":
        # Its defaults are those of one checkpoint.
        config.setdefault("mlp_multipliers", [1.0, 1.0])
        config.setdefault("ssm_multipliers", [1.0] * 5)
        config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return config


def stack_experts(file):
    """Stacks the experts as in the hub's checkpoints of Qwen 3.5, the only layout that mlx-lm reads."""
    tensors, experts = {}, {}
    for name, value in load_file(file).items():
        prefix, found, rest = name.partition(".experts.")
        if not found:
            tensors[name] = value
            continue
        expert, part, _ = rest.split(".")
        experts.setdefault(prefix, {})[int(expert), part] = value
    for prefix, parts in experts.items():
        count = range(len(parts) // 3)
        both = [torch.cat([parts[i, "gate_proj"], parts[i, "up_proj"]]) for i in count]
        tensors[f"{prefix}.experts.gate_up_proj"] = torch.stack(both)
        tensors[f"{prefix}.experts.down_proj"] = torch.stack([parts[i, "down_proj"] for i in count])
    save_file(tensors, file, metadata={"format": "pt"})


def as_published(file, config):
    """Names the tensors as OLMo Hybrid's checkpoints on the hub do, and cuts the joint convolution where queries and keys end. That is all
    that mlx-lm reads."""
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = config["linear_num_value_heads"] * config["linear_value_head_dim"]
    tensors = load_file(file)
    for name in [name for name in tensors if name.endswith("q_conv1d.weight")]:
        names = [name.replace("q_conv1d", part + "_conv1d") for part in "qkv"]
        whole = torch.cat([tensors[name] for name in names])
        tensors |= {n: t.contiguous() for n, t in zip(names, whole.split([keys, keys, values]))}
    renames = [("attention_layer_norm", "input_layernorm"), ("feedforward_layer_norm", "post_attention_layernorm")]
    for old, new in renames:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})


def dense_names(file):
    """Names the dense networks of Kimi Linear as the hub's checkpoints do: `transformers` saves them under the name of experts."""
    dense = re.compile(r"\.block_sparse_moe\.(gate|up|down)_proj\.")
    tensors = {dense.sub(r".mlp.\1_proj.", name): value for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def convert(case, model, worker, source, target):
    """Saves the model and has it converted. Returns the shapes of the saved tensors."""
    make.save(case.base, model, source)
    config = json.loads((source / "config.json").read_text())
    if case.legacy:
        config = wanted_by_mlx(legacy_config(config))
        (source / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    tokenizer(source, config.get("text_config", config)["vocab_size"])
    file = source / "model.safetensors"
    if case.family == "olmo_hybrid":
        as_published(file, config)
    before = file.read_bytes()
    if case.family == "qwen3_5_moe_text":
        stack_experts(file)
    if case.family == "kimi_linear":
        dense_names(file)
    worker.run(source=str(source), target=str(target), **case.job)
    file.write_bytes(before)
    return {name: tuple(t.shape) for name, t in load_file(file).items()}


def dequantized(case, shapes, source, target, folder, compare=True):
    """Loads the decoded weights of `target` as an f32 model of `transformers`. Also returns the formats found."""
    tensors, formats = read(target, columns(shapes, case.family))
    tensors = original(case.family, tensors)
    if case.family == "falcon_h1":
        tensors = without_factors(tensors, json.loads((source / "config.v5.json").read_text()))
    if case.family in WITH_ONES:
        tensors = without_ones(tensors)
    if set(tensors) != set(shapes):
        raise AssertionError(f"{case.path}: {set(tensors) ^ set(shapes)}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise AssertionError(f"{case.path}: {name} {tuple(tensors[name].shape)}, not {shape}")
    if case.family in ("falcon_h1", *WITH_ONES) and compare:
        # Without the factors or the 1, the weights are those before the conversion: quantization in 4 bits moves them by less.
        before = load_file(source / "model.safetensors")
        moved = {name: rel_l2(tensors[name], before[name].float()) for name in shapes}
        if max(moved.values()) > 0.12:
            raise AssertionError(f"{case.path}: not the original's weights: {moved}")
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(source / "config.v5.json", folder / "config.json")
    return make.load(folder), formats


def attempt(case, seed, worker, folder):
    """Makes everything for one seed in `folder`."""
    model, tokens = make.build(case.base, seed)
    source, target = folder / "source", folder / "target"
    source.mkdir(parents=True)
    model.config.save_pretrained(source)
    v5 = (source / "config.json").read_text()
    shapes = convert(case, model, worker, source, target)
    (source / "config.v5.json").write_text(v5)
    model, formats = dequantized(case, shapes, source, target, folder / "plain")
    logits, greedy, error = make.check_seed(model, tokens)
    return tokens, logits, greedy, error, formats


def describe(formats):
    return sorted({f"{mode}-{bits}-{group}" for bits, group, mode in formats.values()})


def make_case(case, worker):
    target = FIXTURES / case.folder
    rejected = []
    for seed in range(case.base.seed, case.base.seed + MAX_SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            try:
                tokens, logits, greedy, error, formats = attempt(case, seed, worker, folder)
            except make.Rejected as reason:
                rejected.append(str(reason))
                continue
            found = describe(formats)
            if found != sorted(case.formats):
                raise AssertionError(f"{case.path}: formats {found}, not {case.formats}")
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for file in sorted((folder / "target").iterdir()):
                if file.name.startswith("model") or file.name == "config.json":
                    shutil.copy(file, target / file.name)
            break
    else:
        raise AssertionError(f"{case.path}: no usable seed: {rejected[-5:]}")
    if case.edit:
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(case.edit(config) or config, indent=4, sort_keys=True))
    save_file(
        {"tokens": torch.tensor(tokens), "logits": logits.contiguous(), "greedy": torch.tensor(greedy)},
        target / "reference.safetensors",
        metadata={
            "case": case.path, "seed": str(seed), "prompt_length": str(make.PROMPT), "f64_rel_l2": f"{error:.3e}",
            "formats": " ".join(found), "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__, "mlx": "0.32.4", "mlx-lm": "0.32.2", "note": case.note,
        },
    )
    for file in target.iterdir():
        file.chmod(0o644)
        if file.suffix == ".safetensors":
            make.sort_header(file)
    size = sum(f.stat().st_size for f in target.iterdir()) // 1024
    print(f"{case.path}: seed {seed} ({len(rejected)} rejected), {size} KiB, f64 {error:.1e}, {' '.join(found)}", flush=True)


def check(case):
    """Recomputes the logits of a committed case from its files."""
    target = FIXTURES / case.folder
    reference = load_file(target / "reference.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = folder / "source"
        source.mkdir()
        # Shapes and config come from a model made from the case; its weights are not used.
        model, _ = make.build(case.base, 0)
        make.save(case.base, model, source)
        shutil.copy(source / "config.json", source / "config.v5.json")
        shapes = {name: tuple(t.shape) for name, t in load_file(source / "model.safetensors").items()}
        model, _ = dequantized(case, shapes, source, target, folder / "plain", compare=False)
        error = rel_l2(make.forward(model, reference["tokens"].tolist()), reference["logits"])
    print(f"{case.path}: {error:.1e}")
    return error <= 1e-6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="families or family/case; default: all")
    parser.add_argument("--mlx", help="Python with the packages of requirements-mlx.txt")
    parser.add_argument("--force", action="store_true", help="make existing cases again")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    make.assert_plain_paths()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    known = all_cases()
    for wanted in options.cases:
        if not any(wanted in (case.family, case.path) for case in known):
            parser.error(f"no case is called {wanted}")
    chosen = [c for c in known if not options.cases or c.family in options.cases or c.path in options.cases]
    worker, failures = None, []
    for case in chosen:
        if options.list:
            print(case.path, *case.formats)
        elif options.check:
            if not check(case):
                failures.append(case.path)
        elif options.force or not (FIXTURES / case.folder / "reference.safetensors").exists():
            if not options.mlx:
                parser.error("--mlx says which Python has MLX")
            worker = worker or Worker(options.mlx)
            try:
                make_case(case, worker)
            except Exception as error:  # still make the other cases
                failures.append(f"{case.path}: {type(error).__name__}: {error}")
                print("FAILED", failures[-1], flush=True)
    if failures:
        sys.exit("failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
