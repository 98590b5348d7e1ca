"""Writes a model folder in the usual form and checks it against transformers.

    python export.py hybrid --weights RUN/final.pt --tokenizer DATA/tokenizer.json --out ../hybrid

The training code uses the checkpoint's names, so the file is `state_dict()` in bf16. The check loads the folder
with `AutoModelForCausalLM` in f32 and compares its logits with those of the training code on the same weights.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from tokenizer import write_files
from train import RECIPES, build

CONTEXT = 2048
TOLERANCE = 2e-5  # relative error of the logits, both sides in f32


def compare(name: str, folder: Path, weights: dict) -> float:
    """Relative L2 error between the logits of the training code and of transformers, on random tokens."""
    model = build(name)
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    model.eval()
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(5, 8192, (2, 256), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = model.logits(tokens), reference(tokens).logits
    return ((ours - theirs).norm() / theirs.norm()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = torch.load(args.weights, weights_only=True, map_location="cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.bfloat16().contiguous() for k, v in sorted(weights.items())},
        args.out / "model.safetensors",
        metadata={"format": "pt"},
    )
    (args.out / "config.json").write_text(json.dumps(build(args.model).shape.config(), indent=2) + "\n")
    write_files(args.out, Tokenizer.from_file(str(args.tokenizer)), CONTEXT)
    error = compare(args.model, args.out, {k: v.bfloat16() for k, v in weights.items()})
    count = sum(v.numel() for v in weights.values())
    print(f"{args.model}: {count} parameters, relative error of the logits against transformers {error:.2e}")
    if not error < TOLERANCE:
        raise SystemExit(f"the exported {args.model} differs from transformers by {error:.2e}, more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
