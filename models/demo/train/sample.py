"""Prints a model's answers to a few requests, using the training code and its weights.

    python sample.py hybrid --weights RUN/final.pt --tokenizer DATA/tokenizer.json [--prompt TEXT] [--tries 3]

Recomputes the whole context for every token, with all requests in one batch: slow, but only needs the training code.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tokenizer import chat_text
from train import RECIPES, build

PROMPTS = [
    "Tell me a story about a dog who finds a boat.",
    "I'd like to book a table for two at an Italian restaurant tonight.",
    "Can you tell me a story about a fox and a kite?",
    "Tell me a story about a girl who is afraid of the dark.",
    "Hello!",
    "What is the capital of France?",
    "I need a taxi to the airport.",
    "Write a story about a snail who wants to fly.",
]


def pick(
    logits: Tensor, seen: Tensor, temperature: float, top_k: int, top_p: float, penalty: float, generator: torch.Generator
) -> Tensor:
    """Samples one token per row: repetition penalty, temperature, top-k, top-p, in the order that transformers applies them."""
    old = logits.gather(1, seen)
    logits = logits.scatter(1, seen, torch.where(old > 0, old / penalty, old * penalty)) / temperature
    logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], float("-inf"))
    order = logits.sort(descending=False)
    drop = order.values.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[:, -1] = False
    logits = logits.masked_fill(drop.scatter(1, order.indices, drop), float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


@torch.no_grad()
def answer(
    model: torch.nn.Module, prompts: list[list[int]], limit: int, ends: set[int], generator: torch.Generator, **sampling
) -> list[list[int]]:
    """Continues each prompt until an end token, at most `limit` tokens."""
    device = next(model.parameters()).device
    rows = [list(p) for p in prompts]
    done = [False] * len(rows)
    for _ in range(limit):
        longest = max(map(len, rows))
        width = -(-longest // 128) * 128
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        x = model.hidden(tokens.to(device))
        x = x[0] if isinstance(x, tuple) else x
        last = torch.tensor([len(r) - 1 for r in rows], device=device)
        x = x[torch.arange(len(rows), device=device), last]
        shape = model.shape
        if hasattr(shape, "logits_scaling"):
            logits = x @ model.model.embed_tokens.weight.T / shape.logits_scaling
        else:
            logits = shape.logit_cap * torch.tanh(model.lm_head(x) / shape.logit_cap)
        # padding repeats a row's first token, which doesn't change the set of seen tokens
        seen = torch.tensor([r + [r[0]] * (longest - len(r)) for r in rows], device=device)
        chosen = pick(logits.float(), seen, generator=generator, **sampling).tolist()
        for i, token in enumerate(chosen):
            if not done[i]:
                rows[i].append(token)
                done[i] = token in ends
        if all(done):
            break
    return [r[len(p) :] for r, p in zip(rows, prompts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=350)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--top-k", type=int, default=40)
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(args.model)
    weights = torch.load(args.weights, weights_only=True, map_location="cpu")
    model.load_state_dict({k: v.float() for k, v in weights.get("model", weights).items()})
    model = model.to(device).eval()
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    asked = [p for p in args.prompt or PROMPTS for _ in range(args.tries)]
    ids = [tokenizer.encode(chat_text([{"role": "user", "content": p}]) + "<|assistant|>").ids for p in asked]
    answers = answer(
        model,
        ids,
        args.limit,
        {0, 4},
        torch.Generator(device).manual_seed(args.seed),
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        penalty=args.repetition_penalty,
    )
    for prompt, tokens in zip(asked, answers):
        print(f"> {prompt}\n{tokenizer.decode(tokens, skip_special_tokens=False)}\n")


if __name__ == "__main__":
    main()
