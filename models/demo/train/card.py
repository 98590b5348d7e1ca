"""Makes the contents of the model card: a plot of the losses, thinned logs, and sampled answers.

    python card.py plot --run RUNS --out ..          needs matplotlib
    python card.py samples --models .. > samples.md  needs transformers

`plot` reads RUNS/{hybrid,xlstm}/log.jsonl and writes loss.png, and train/log/{hybrid,xlstm}.jsonl with every tenth step.
"""

import argparse
import json
from pathlib import Path

NAMES = ("hybrid", "xlstm")
SAMPLES = [  # (request, seed)
    ("Tell me a story about a dog who finds a boat.", 1),
    ("I'd like to book a table for two at an Italian restaurant tonight.", 2),
    ("Can you tell me a story about a fox and a kite?", 3),
]


def plot(runs: Path, out: Path) -> None:
    """Draws the training loss (mean of 20 steps) and the held-out losses of both models."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    (out / "train" / "log").mkdir(parents=True, exist_ok=True)
    for axis, name in zip(axes, NAMES):
        lines = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "loss" in line]
        held = [line for line in lines if "held" in line]
        thinned = [line for line in lines if "held" in line or line["step"] % 10 == 0]
        (out / "train" / "log" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in thinned))
        means = [(steps[i + 10]["step"], sum(s["loss"] for s in steps[i : i + 20]) / 20) for i in range(0, len(steps) - 19, 20)]
        axis.plot(*zip(*means), label="training", color="black", linewidth=1)
        for kind in ("story_chat", "service", "books", "prose"):
            axis.plot([h["step"] for h in held], [h["held"][kind] for h in held], label=f"held out: {kind}", linewidth=1)
        axis.set(title=name, xlabel="step", ylim=(0.5, 5.5))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss (nats a token)")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(out / "loss.png", dpi=80)


def samples(models: Path) -> None:
    """Prints one answer of each model to each request, with the settings of generation_config.json."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    torch.set_num_threads(1)
    for name in NAMES:
        tokenizer = AutoTokenizer.from_pretrained(models / name)
        model = AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32).eval()
        for prompt, seed in SAMPLES:
            inputs = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            set_seed(seed)
            output = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            print(
                f"{name}, seed {seed}: *{prompt}*\n\n> "
                + tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).replace("\n", "\n> ")
                + "\n",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    plotting = commands.add_parser("plot")
    plotting.add_argument("--run", type=Path, required=True)
    plotting.add_argument("--out", type=Path, required=True)
    sampling = commands.add_parser("samples")
    sampling.add_argument("--models", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "plot":
        plot(args.run, args.out)
    else:
        samples(args.models)


if __name__ == "__main__":
    main()
