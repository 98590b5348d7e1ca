"""Writes the reference data for the engine's tests of the demo models, from transformers in f32 on the CPU.

    python reference.py --models .. --out ../../../tests/fixtures/demo

One safetensors file per model:
  tokens       i64 [48]          a fixed prompt
  logits       f32 [8, 8192]     the logits at its last eight positions
  chat_tokens  i64 [n]           the chat template's rendering of PROMPT, with the assistant's turn opened
  greedy       i64 [32]          the greedy continuation of chat_tokens
  text_tokens  i64 [m]           TEXT, which was written for this purpose and isn't in the training data
  text_nll     f32 [1]           mean negative log likelihood of text_tokens[1:], each given all tokens before it

The metadata names the versions, and the smallest gap between the best and the second logit along the greedy path.
"""

import argparse
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "Tell me a story about a dog who finds a boat."
TEXT = """The lamp in the harbor was old, and nobody had lit it for many years. One evening a girl called Nadia climbed the stairs
to look at it. The stairs were steep and full of dust, and she counted them as she went. At the top there was a small round
room with a window on every side. She could see the whole town from there: the market, the red roofs, the boats coming home
one after another.
"Why does nobody light you?" she asked the lamp. The lamp did not say anything, of course, but the wind rattled the glass a
little, as if somebody had knocked. Nadia wiped the dust away with her sleeve. Then she ran home and told her grandfather
about it.
Her grandfather had been a fisherman, and he remembered the lamp well. "When I was young," he said, "we could see it from far
out at sea. On the darkest nights it brought us back. Then the new lighthouse was built, and everybody forgot the little one."
He thought about it for a moment. "I believe there is still some oil in the shed."
The next evening they went up together. It took them a long time, because the old man had to rest on every landing. They filled
the lamp, and Nadia was allowed to hold the match. At first there was only a thin blue flame. Then it grew, and the whole room
turned yellow, and the light went out over the roofs and over the water.
Down in the harbor people stopped and looked up. A man on one of the boats took off his hat. "I had forgotten how warm it looks,"
said the baker to her neighbor. From that day on somebody climbed the stairs every evening, and on Sundays it was always Nadia.
"""


@torch.no_grad()
def record(folder: Path, out: Path) -> None:
    """Computes and writes one model's data."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = tokenizer(TEXT, return_tensors="pt").input_ids
    tokens = text[:, :48]
    logits = model(tokens).logits[0, -8:].float()
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    row, gap = chat, float("inf")
    for _ in range(32):  # recompute the whole context for each token, so that the data doesn't depend on a cache
        best = model(row).logits[0, -1].float().topk(2)
        gap = min(gap, (best.values[0] - best.values[1]).item())
        row = torch.cat([row, best.indices[:1].view(1, 1)], 1)
    all_ = model(text).logits[0, :-1].double()
    nll = torch.nn.functional.cross_entropy(all_, text[0, 1:])
    save_file(
        {
            "tokens": tokens[0].clone(),
            "logits": logits.contiguous(),
            "chat_tokens": chat[0].clone(),
            "greedy": row[0, chat.shape[1] :].clone(),
            "text_tokens": text[0].clone(),
            "text_nll": nll.float().view(1),
        },
        out,
        metadata={
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "dtype": "float32",
            "device": "cpu",
            "prompt": PROMPT,
            "smallest_greedy_gap": f"{gap:.4f}",
            "logits_positions": "40..47",
        },
    )
    print(f"{out}: {text.shape[1]} text tokens, nll {nll:.4f}, smallest gap {gap:.4f}")
    print(repr(tokenizer.decode(row[0, chat.shape[1] :])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="the folder that contains hybrid/ and xlstm/")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("hybrid", "xlstm"):
        record(args.models / name, args.out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
