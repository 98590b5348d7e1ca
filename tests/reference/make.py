"""Makes the conformance fixtures: tiny random checkpoints with the outputs of `transformers`.

    python make.py                    # all missing cases
    python make.py llama mamba2/groups --force
    python make.py --check            # recompute the logits of existing cases and compare
    python make.py --list

Each case is drawn from a seed. A seed is rejected if greedy decoding or expert routing would depend on rounding, or if
float32 itself is too far from float64. README.md describes the files of a case.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["USE_HUB_KERNELS"] = "0"

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.xlstm.modeling_xlstm import xLSTMPreTrainedModel

from cases import all_cases
from f64 import by_position, logits_f64, rel_l2, run
from legacy import legacy_config, loadable
from weights import is_kept, randomize, round_weights, scale_logits

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
PROMPT = 20  # greedy decoding starts after this many of the reference tokens
GREEDY = 16
MIN_GREEDY_DISTINCT = 6  # a loop on one token would be a weak test
MAX_SEEDS = 200
MIN_GREEDY_GAP = 1e-2
MIN_ARGMAX_GAP = 1e-4
MIN_ROUTER_GAP = 1e-3
MAX_F64_ERROR = 3e-6
MAX_REPEAT_ERROR = 1e-7  # sums depend on where in memory a tensor lies
IMPLEMENTATION = {"attn_implementation": "eager", "experts_implementation": "eager"}


# xLSTM's own initialization fails where projections are fused (`weight_mode`). Every weight is drawn here anyway.
xLSTMPreTrainedModel._init_weights = lambda self, module: None


class Rejected(Exception):
    """This seed can't be used."""


def forward(model, tokens):
    """The logits of one full forward without a cache, or token by token (see `run`): f32 [tokens, vocab]."""
    with torch.no_grad():
        return run(model, tokens).float()


def load(folder, config=None):
    """A saved checkpoint as an f32 model on the plain PyTorch paths."""
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32, **IMPLEMENTATION)
    return model.eval()


def router_gap(model, tokens):
    """The smallest gap between what experts, or groups of them, are ranked by at the boundary of the choice, over all layers and tokens."""
    gaps, hooks = [], []

    def gap(values, k):
        order = values.sort(dim=-1, descending=True).values
        if k < order.shape[-1]:
            gaps.append(float((order[:, k - 1] - order[:, k]).min()))

    def hook(module, args):
        x = args[0].reshape(-1, args[0].shape[-1])
        ranks = torch.nn.functional.linear(x, module.weight)
        if len(args) > 1 and args[1] is not None:  # LFM2's selection bias
            ranks = ranks.sigmoid() + args[1]
        bias = getattr(module, "e_score_correction_bias", None)
        if bias is not None:
            ranks = ranks.sigmoid() + bias
            groups = ranks.view(len(ranks), module.num_group, -1)
            sums = groups.topk(2, dim=-1).values.sum(dim=-1)
            gap(sums, module.topk_group)
            used = torch.zeros_like(sums).scatter_(1, sums.topk(module.topk_group, dim=-1).indices, 1.0)
            ranks = groups.masked_fill(used.unsqueeze(-1) == 0, float("-inf")).flatten(1)
        gap(ranks, module.top_k)

    for module in model.modules():
        if type(module).__name__.lower().endswith("topkrouter"):
            hooks.append(module.register_forward_pre_hook(hook))
    try:
        forward(model, tokens)
    finally:
        for handle in hooks:
            handle.remove()
    return min(gaps, default=float("inf"))


def greedy_full(model, prompt):
    """Greedy decoding with the whole sequence recomputed at each step."""
    tokens = list(prompt)
    for _ in range(GREEDY):
        top = forward(model, tokens)[-1].topk(2)
        if float(top.values[0] - top.values[1]) < MIN_GREEDY_GAP:
            raise Rejected("greedy near-tie")
        tokens.append(int(top.indices[0]))
    if len(set(tokens[len(prompt):])) < MIN_GREEDY_DISTINCT:
        raise Rejected("greedy repeats itself")
    return tokens[len(prompt):]


def greedy_cached(model, prompt):
    """Greedy decoding with the cache of `transformers`."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=GREEDY, use_cache=True
    )
    return out[0, len(prompt):].tolist()


def build(case, seed):
    """A random f32 model of the case and its reference tokens."""
    config_class = type(AutoConfig.for_model(case.family))
    config = config_class(**case.config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **IMPLEMENTATION).eval()
    randomize(model, case, seed)
    g = torch.Generator().manual_seed(seed + 1_000_000)
    tokens = torch.randint(0, config.vocab_size, (case.length,), generator=g).tolist()
    scale_logits(model, tokens, case.logit_std)
    round_weights(model, case)
    return model, tokens


def check_seed(model, tokens):
    """Rejects a model whose outputs depend on rounding. Returns logits, greedy tokens and the float64 error."""
    logits = forward(model, tokens)
    if not torch.isfinite(logits).all():
        raise Rejected("not finite")
    top = logits.topk(2).values
    if float((top[:, 0] - top[:, 1]).min()) < MIN_ARGMAX_GAP:
        raise Rejected("argmax near-tie")
    if router_gap(model, tokens) < MIN_ROUTER_GAP:
        raise Rejected("router near-tie")
    greedy = greedy_full(model, tokens[:PROMPT])
    if router_gap(model, tokens[:PROMPT] + greedy) < MIN_ROUTER_GAP:
        raise Rejected("router near-tie in greedy")
    error = rel_l2(logits, logits_f64(model, tokens))
    if error > MAX_F64_ERROR:
        raise Rejected(f"f32 is {error:.2e} from f64")
    return logits, greedy, error


def save(case, model, folder):
    """Writes config.json and the weights like `save_pretrained`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case.dtype != "float32":
        kept = {n: p.detach().clone() for n, p in model.named_parameters() if is_kept(case, n)}
        model = model.to(getattr(torch, case.dtype))
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.data = kept[name]
    options = {"max_shard_size": case.shard} if case.shard else {}
    model.save_pretrained(folder, **options)
    for extra in ("generation_config.json", "README.md"):
        (folder / extra).unlink(missing_ok=True)


def ablate(case, folder, tokens, logits):
    """Asserts that each special field of the case changes the logits. Returns the relative differences."""
    moved = {}
    for label, change in case.ablations.items():
        if callable(change):
            model = load(folder)
            with torch.no_grad():
                change(model)
        else:
            config = AutoConfig.from_pretrained(folder)
            for key, value in change.items():
                assert hasattr(config, key), f"{case.path}: no field {key}"
                setattr(config, key, value)
            model = load(folder, config)
        moved[label] = rel_l2(forward(model, tokens), logits)
        if moved[label] < case.ablation_floor:
            raise AssertionError(f"{case.path}: `{label}` changes the logits by only {moved[label]:.1e}")
    return moved


def make(case):
    """Makes one case folder."""
    folder = FIXTURES / case.family / case.name
    rejected = []
    for seed in range(case.seed, case.seed + MAX_SEEDS):
        model, tokens = build(case, seed)
        try:
            logits, greedy, error = check_seed(model, tokens)
            break
        except Rejected as reason:
            rejected.append(str(reason))
    else:
        raise AssertionError(f"{case.path}: no usable seed: {rejected[-5:]}")

    save(case, model, folder)
    # The reference is computed from the files, not from memory.
    model = load(folder)
    again = forward(model, tokens)
    if rel_l2(again, logits) > MAX_REPEAT_ERROR:
        raise AssertionError(f"{case.path}: the saved model differs by {rel_l2(again, logits):.1e}")
    logits = again
    moved = ablate(case, folder, tokens, logits)

    if case.cached != "unsupported":
        cached = greedy_cached(model, tokens[:PROMPT])
        if (cached == greedy) != (case.cached == "same"):
            raise AssertionError(f"{case.path}: cached greedy {cached}, full greedy {greedy}")

    old = legacy_config(json.loads((folder / "config.json").read_text()))
    (folder / "config.legacy.json").write_text(json.dumps(old, indent=2, sort_keys=True) + "\n")
    config = type(model.config).from_dict(loadable(old))
    if rel_l2(forward(load(folder, config), tokens), logits) > MAX_REPEAT_ERROR:
        raise AssertionError(f"{case.path}: config.legacy.json describes a different model")

    metadata = {
        "case": case.path,
        "seed": str(seed),
        "prompt_length": str(PROMPT),
        "greedy_by": "token by token" if by_position(model) else "full recompute without a cache",
        "cached_greedy": case.cached,
        "f64_rel_l2": f"{error:.3e}",
        "logit_std": f"{float(logits.std()):.3f}",
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "weights_dtype": case.dtype,
        "note": case.note,
    }
    save_file(
        {"tokens": torch.tensor(tokens), "logits": logits.contiguous(), "greedy": torch.tensor(greedy)},
        folder / "reference.safetensors", metadata=metadata,
    )
    sort_header(folder / "reference.safetensors")
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir()) // 1024
    print(f"{case.path}: seed {seed}, {size} KiB, f64 {error:.1e}, "
          + ", ".join(f"{k} {v:.1e}" for k, v in moved.items()), flush=True)


def sort_header(path):
    """Sorts the header of a safetensors file: the library writes metadata in random order."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size:])


def check(case):
    """Recomputes the logits of a committed case."""
    folder = FIXTURES / case.family / case.name
    reference = load_file(folder / "reference.safetensors")
    tokens = reference["tokens"].tolist()
    error = rel_l2(forward(load(folder), tokens), reference["logits"])
    print(f"{case.path}: {error:.1e}")
    return error <= 1e-6


def assert_plain_paths():
    """Fails if packages are installed that would replace the plain PyTorch code of the reference."""
    for package in ("mamba_ssm", "causal_conv1d", "mambapy", "kernels", "xlstm", "mlstm_kernels", "flash_attn"):
        if importlib.util.find_spec(package):
            sys.exit(f"`{package}` is installed: transformers would use it in place of its own PyTorch code")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="families or family/case; default: all")
    parser.add_argument("--force", action="store_true", help="make existing cases again")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    assert_plain_paths()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    known = all_cases()
    for wanted in options.cases:
        if not any(wanted in (case.family, case.path) for case in known):
            parser.error(f"no case is called {wanted}")
    chosen = [c for c in known if not options.cases or c.family in options.cases or c.path in options.cases]
    failures = []
    for case in chosen:
        folder = FIXTURES / case.family / case.name
        if options.list:
            print(case.path)
        elif options.check:
            if not check(case):
                failures.append(case.path)
        elif options.force or not (folder / "reference.safetensors").exists():
            try:
                make(case)
            except Exception as error:  # still make the other cases
                shutil.rmtree(folder, ignore_errors=True)
                failures.append(f"{case.path}: {type(error).__name__}: {error}")
                print("FAILED", failures[-1], flush=True)
    if failures:
        sys.exit("failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
