"""Compares logits from another program with those of `transformers`.

    kinglet logits --model DIR --tokens 1,2,3 --out logits.safetensors
    python compare.py DIR logits.safetensors

The file contains `logits` f32 [tokens, vocab] and `tokens` i64 [tokens] (or pass the tokens with --tokens). The
reference runs on the CPU in f32 (weights upcast), eager, single-threaded, in one forward pass without a cache. Prints
the relative L2 error and how often the argmax agrees. Exits with status 1 if the error is above --tolerance, or if the
argmax differs where the reference's top two logits are further apart than --tie.
"""

import argparse
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from f64 import logits_f64, rel_l2
from make import forward, load


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a checkpoint folder")
    parser.add_argument("logits", type=Path, help="a safetensors file with `logits` and `tokens`")
    parser.add_argument("--tokens", help="comma-separated ids, if the file has no `tokens`")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--tie", type=float, default=1e-4, help="logits closer than this count as a tie")
    parser.add_argument("--f64", action="store_true", help="also compare both with float64")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()

    file = load_file(options.logits)
    if "logits" not in file:
        sys.exit(f"{options.logits}: no tensor `logits`, only {sorted(file)}")
    logits = file["logits"].float()
    if options.tokens:
        tokens = [int(t) for t in options.tokens.split(",")]
    elif "tokens" in file:
        tokens = file["tokens"].flatten().tolist()
    else:
        sys.exit(f"{options.logits}: no tensor `tokens`; give --tokens")

    model = load(options.model)
    reference = forward(model, tokens)
    if logits.shape != reference.shape:
        sys.exit(f"{options.logits}: logits {list(logits.shape)}, the reference has {list(reference.shape)}")
    error = rel_l2(logits, reference)
    row = ((logits - reference).double().norm(dim=1) / reference.double().norm(dim=1)).max()
    differ = logits.argmax(1) != reference.argmax(1)
    top = reference.topk(2).values
    tied = (top[:, 0] - top[:, 1]) < options.tie
    print(f"tokens            {len(tokens)}")
    print(f"relative L2       {error:.3e}  (worst token {float(row):.3e})")
    print(f"largest |diff|    {float((logits - reference).abs().max()):.3e}")
    print(f"argmax agrees     {int((~differ).sum())} of {len(tokens)}" + (
        f", {int((differ & tied).sum())} of the rest are ties" if differ.any() else ""))
    if options.f64:
        wide = logits_f64(model, tokens)
        print(f"to float64        this {rel_l2(logits, wide):.3e}, transformers f32 {rel_l2(reference, wide):.3e}")
    # `not <=`, so that NaN fails.
    if not error <= options.tolerance or bool((differ & ~tied).any()):
        sys.exit(f"FAILED: tolerance {options.tolerance:.0e}")
    print("ok")


if __name__ == "__main__":
    main()
