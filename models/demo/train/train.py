"""Trains one of the models on the streams from prepare.py.

    python train.py hybrid --data DATA --out RUN
    python train.py xlstm --data DATA --out RUN

Continues from RUN/checkpoint.pt if it exists. Logs every step's loss and the held-out losses to RUN/log.jsonl.
`--max-seconds` ends a run early, with a checkpoint, so that training can be split into several runs.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from data import FIRST_STAGE, LAST_STAGE, Streams, assistant_mask, held_rows
from hybrid import Hybrid, HybridShape
from optim import make_optimizers
from mlstm import Xlstm, XlstmShape

RECIPES = {
    "hybrid": {
        "steps": 2600,
        "rows": 64,
        "length": 1024,
        "muon_lr": 0.015,
        "adam_lr": 2e-3,
        "weight_decay": 0.1,
        "dropout": 0.15,
    },
    "xlstm": {
        "steps": 2200,
        "rows": 128,
        "length": 1024,
        "muon_lr": 0.02,
        "adam_lr": 2e-3,
        "weight_decay": 0.05,
        "dropout": 0.05,
    },
}
LAST_STAGE_BEGINS = 0.75  # of the steps
DECAY_BEGINS = 0.4
WARM_UP = 100  # steps
CHECK_KINDS = ["stories", "books", "prose", "story_chat", "service", "question"]


def build(name: str, **changes) -> torch.nn.Module:
    """Makes a new model by its name."""
    return Hybrid(HybridShape(**changes)) if name == "hybrid" else Xlstm(XlstmShape(**changes))


def rate(step: int, steps: int) -> float:
    """The learning rate's factor: warm-up, constant, then linear to zero."""
    begin = DECAY_BEGINS * steps
    return min(1.0, (step + 1) / WARM_UP) * (1.0 if step < begin else max(0.0, (steps - step) / (steps - begin)))


def check(model: torch.nn.Module, held: dict, device: torch.device) -> dict[str, float]:
    """Held-out losses; in chats, only the assistant's turns count."""
    model.eval()
    out = {}
    with torch.no_grad():
        for kind, (inputs, targets) in held.items():
            inputs, targets = inputs.to(device), targets.to(device)
            mask = targets >= 0
            if kind in ("story_chat", "service", "question"):
                mask &= assistant_mask(inputs)
            total, count, _ = model.loss(inputs, targets.clamp(min=0), mask)
            out[kind] = round((total / count).item(), 4)
    model.train()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, default=float("inf"))
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--check-every", type=int, default=200)
    for key, value in RECIPES["hybrid"].items():
        parser.add_argument("--" + key.replace("_", "-"), type=type(value), help="default: as in RECIPES")
    args = parser.parse_args()
    recipe = {k: getattr(args, k) if getattr(args, k) is not None else v for k, v in RECIPES[args.model].items()}
    begun = time.time()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    model = build(args.model, dropout=recipe["dropout"]).to(device)
    optimizers = make_optimizers(model, recipe["muon_lr"], recipe["adam_lr"], recipe["weight_decay"])
    step = 0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        step = saved["step"]
    if not args.no_compile:
        torch._dynamo.config.recompile_limit = 32
        model.compile_parts()
    streams = Streams(args.data, device)
    held = {k: held_rows(args.data / f"{k}.held.npz", recipe["length"], recipe["rows"]) for k in CHECK_KINDS}
    log = (args.out / "log.jsonl").open("a")
    print(
        f"{args.model}: {sum(p.numel() for p in model.parameters())} parameters, step {step} of {recipe['steps']}, {recipe}",
        flush=True,
    )

    def save() -> None:
        part = checkpoint.with_suffix(".part")
        torch.save(
            {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step, "recipe": recipe},
            part,
        )
        part.replace(checkpoint)

    pending, marked, saved_at = [], time.time(), time.time()
    steps = recipe["steps"]
    while step < steps and time.time() - begun < args.max_seconds:
        last_stage = step >= LAST_STAGE_BEGINS * steps
        inputs, targets = streams.batch(
            LAST_STAGE if last_stage else FIRST_STAGE, recipe["rows"], recipe["length"], args.seed * 1_000_003 + step
        )
        mask = assistant_mask(inputs) if last_stage else torch.ones_like(inputs, dtype=torch.bool)
        with torch.autocast(device.type, torch.bfloat16):
            total, count, balance = model.loss(inputs, targets, mask)
            loss = total / count
        (loss + model.balance_weight * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * rate(step, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        pending.append((step, loss.detach(), balance.detach()))
        if step % 50 == 0 or step == steps:
            for s, l, b in pending:
                log.write(json.dumps({"step": s, "loss": round(l.item(), 4), "balance": round(b.item(), 4)}) + "\n")
            log.flush()
            speed = len(pending) * recipe["rows"] * recipe["length"] / (time.time() - marked)
            print(
                f"{args.model} step {step} loss {sum(l.item() for _, l, _ in pending) / len(pending):.4f} balance {pending[-1][2].item():.3f} "
                f"{speed / 1e6:.2f}M tokens/s, {time.time() - begun:.0f} s",
                flush=True,
            )
            pending, marked = [], time.time()
        if step % args.check_every == 0 or step == steps:
            with torch.autocast(device.type, torch.bfloat16):
                losses = check(model, held, device)
            log.write(json.dumps({"step": step, "held": losses}) + "\n")
            log.flush()
            print(f"{args.model} step {step} held {losses}", flush=True)
            marked = time.time()
        if time.time() - saved_at > 60:
            save()
            saved_at = time.time()
    save()
    if step == steps:
        torch.save({k: v.detach().to("cpu", torch.bfloat16) for k, v in model.state_dict().items()}, args.out / "final.pt")


if __name__ == "__main__":
    main()
