"""Measures perplexity on the held-out text of each kind and on WikiText-2's test split.

    python evaluate.py hybrid --weights RUN/final.pt --data DATA [--out perplexity.json]

Text is read in rows of 1,024 tokens without overlap, each from an empty state: long text is cut every 1,024 tokens;
stories and dialogues are read from their beginning. In dialogues only the assistant's turns count. In f32.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from data import assistant_mask, held_rows
from train import RECIPES, build

KINDS = ["stories", "books", "prose", "story_chat", "service", "question", "arithmetic", "wikitext2"]
PLAIN = {"stories", "books", "prose", "wikitext2"}
LENGTH, BATCH = 1024, 16


@torch.no_grad()
def measure(model: torch.nn.Module, path: Path, plain: bool, sizes: torch.Tensor) -> dict[str, float]:
    """Mean loss and perplexity per token and, for plain text, bits per byte."""
    device = next(model.parameters()).device
    inputs, targets = held_rows(path, LENGTH, rows_of(path))
    loss = count = size = 0.0
    for begin in range(0, len(inputs), BATCH):
        x, y = inputs[begin : begin + BATCH].to(device), targets[begin : begin + BATCH].to(device)
        mask = y >= 0
        if not plain:
            mask &= assistant_mask(x)
        total, n, _ = model.loss(x, y.clamp(min=0), mask)
        loss, count = loss + total.item(), count + n.item()
        size += sizes.to(device)[y[mask]].sum().item()
    out = {"tokens": int(count), "loss": round(loss / count, 4), "perplexity": round(math.exp(loss / count), 2)}
    return out | {"bits_per_byte": round(loss / math.log(2) / size, 3)} if plain else out


def rows_of(path: Path) -> int:
    """An upper bound for the rows of a held-out file: one for each document and each 1,024 tokens."""
    with np.load(path) as file:
        return len(file["starts"]) if path.name.split(".")[0] not in PLAIN - {"stories"} else -(-len(file["tokens"]) // LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(args.model)
    model.load_state_dict({k: v.float() for k, v in torch.load(args.weights, weights_only=True, map_location="cpu").items()})
    model = model.to(device).eval()
    tokenizer = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    # in byte-level BPE each character of a token represents one byte; special tokens aren't text
    sizes = torch.tensor([0.0 if i < 5 else float(len(tokenizer.id_to_token(i))) for i in range(tokenizer.get_vocab_size())])
    result = {}
    for kind in KINDS:
        result[kind] = measure(model, args.data / f"{kind}.held.npz", kind in PLAIN, sizes)
        print(kind, result[kind], flush=True)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
