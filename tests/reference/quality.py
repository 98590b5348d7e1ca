"""Measures the quality loss of quantized demo models and writes the table of quant/QUALITY.md.

    cargo build --release
    python quality_text.py --corpus CORPUS --out TEXTS
    python quality_llama.py --llama LLAMA_CPP --work WORK --texts TEXTS      (optional)
    python quality.py --kinglet ../../target/release/kinglet --texts TEXTS --work WORK

Only the standard library is needed. Every row runs `kinglet quantize`, then `kinglet eval` against the bf16 model, on the same windows
of TEXTS/evaluation.txt. Calibrated rows use TEXTS/calibration.txt, which shares no document with it. Rows that are already in WORK
are not computed again. If quality_llama.py has left results in WORK, the table includes llama.cpp's rows.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def rows() -> list[tuple[str, list[str], bool]]:
    """Returns (name, options of quantize, whether it is calibrated)."""
    out = []
    for bits in (8, 6, 5, 4, 3, 2):
        out.append((f"{bits} bits, round", ["--bits", str(bits), "--method", "round"], False))
    for bits in (4, 3):
        out.append((f"{bits} bits, search", ["--bits", str(bits)], False))
    for bits in (8, 6, 5, 4, 3, 2):
        out.append((f"{bits} bits, calibrated", ["--bits", str(bits)], True))
    out.append(("4 bits, groups of 32, calibrated", ["--bits", "4", "--group-size", "32"], True))
    for mode in ("mxfp4", "nvfp4"):
        out.append((f"{mode}, round", ["--mode", mode, "--method", "round"], False))
        out.append((f"{mode}, calibrated", ["--mode", mode], True))
    for bits, target in ((3, 3.5), (4, 4.5), (4, 4.85), (4, 5.4)):
        mixed = ["--bits", str(bits), "--recipe", "mixed", "--target-bits", str(target)]
        if target == 4.5:
            out.append((f"mixed {target}, search", mixed, False))
        out.append((f"mixed {target}, calibrated", mixed, True))
    return out


def run(*command) -> dict:
    """Runs a command that prints a JSON object."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout)


def evaluate(args, model: Path, folder: Path, more: list[str]) -> dict:
    """Runs `kinglet eval` of `folder` against the model that it was made from."""
    text = args.texts / "evaluation.txt"
    options = ["--context", 512, "--limit", args.limit, "--json", *more]
    return run(args.kinglet, "eval", "--model", folder, "--reference", model, "--text", text, *options)


def measure(args, model: str, name: str, options: list[str], calibrated: bool) -> dict:
    cache = args.work / f"{model} {name}.json"
    if cache.exists():
        return json.loads(cache.read_text())
    source, out = ROOT / "models/demo" / model, args.work / "quantized"
    if calibrated:
        options = [*options, "--calibrate", args.texts / "calibration.txt"]
    made = run(args.kinglet, "quantize", "--model", source, "--out", out, "--force", "--json", *options)
    result = evaluate(args, source, out, args.eval_option)
    result |= {"bits_per_weight": made["bits_per_weight"], "bytes": made["bytes"]}
    shutil.rmtree(out)
    cache.write_text(json.dumps(result))
    return result


def line(name: str, r: dict) -> str:
    k = r["reference"]
    return (
        f"| {name} | {r['bits_per_weight']:.2f} | {r['bytes'] / 1e6:.2f} | {r['perplexity']:.2f} | {k['kl_mean']:.5f} | "
        f"{k['kl_99']:.4f} | {100 * k['same_top']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinglet", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=24576, help="how many tokens of the text to use")
    parser.add_argument("--eval-option", action="append", default=[], help="more options of kinglet eval")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    out = []
    for model in ("hybrid", "xlstm"):
        head = "| weights | bits a weight | MB | perplexity | KL, mean | KL, 99 % | same top, % |\n| --- | --- | --- | --- | --- | --- | --- |"
        found = [(name, measure(args, model, name, *more)) for name, *more in rows()]
        reference = found[0][1]["reference"]["perplexity"]
        out.append(f"The demo {model}; perplexity in bf16 {reference:.2f}:\n\n{head}")
        table = [(r["reference"]["kl_mean"], line(name, r)) for name, r in found]
        if model == "hybrid":
            for path in sorted(args.work.glob("llama.cpp *.json")):
                r = json.loads(path.read_text())
                table.append((r["reference"]["kl_mean"], line(f"**{path.stem}**", r)))
        out[-1] += "\n" + "\n".join(text for _, text in sorted(table))
        out.append("")
    page = ROOT / "quant/QUALITY.md"
    text = page.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(before + BEGIN + "\n\n" + "\n".join(out) + "\n" + END + after)


if __name__ == "__main__":
    main()
