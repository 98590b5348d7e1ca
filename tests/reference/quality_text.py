"""Writes the texts for measuring the quality of quantized models, from the demo models' corpus.

    python quality_text.py --corpus CORPUS --out DIR

  calibration.txt   documents that the demo models were trained on, for calibration
  evaluation.txt    documents that were held out of training (and so of calibration), for measuring
  wikitext.txt      WikiText-2, test split: very different from the training and calibration texts

Each kind of document has the same share of characters. The held-out documents are those of models/demo/train/corpus.py,
chosen by a hash of their text, so the two texts can't share a document.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models/demo/train"))

import corpus  # noqa: E402
import stories  # noqa: E402

END = "<|endoftext|>"


def chat_text(messages: list[dict]) -> str:
    """A dialogue as the demo models' chat template writes it."""
    return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages)


def mix(kinds: dict[str, list[str]], characters: int, rng: random.Random) -> str:
    """Takes documents of all kinds in turn until each kind has its share of the characters."""
    share = characters // len(kinds)
    chosen = []
    for documents in kinds.values():
        documents = documents[:]
        rng.shuffle(documents)
        size = 0
        for text in documents:
            if size >= share:
                break
            text = text[: max(share - size, 200)]
            chosen.append(text)
            size += len(text)
    rng.shuffle(chosen)
    return END.join(chosen) + END


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=1_000_000, help="characters")
    parser.add_argument("--evaluation", type=int, default=200_000, help="characters")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    train: dict[str, list[str]] = {}
    held: dict[str, list[str]] = {}
    short, children = corpus.stories(args.corpus)
    train["stories"] = [t for t in short if not corpus.held_out(t)]
    held["stories"] = [t for t in short if corpus.held_out(t)]
    stories.learn_nouns(train["stories"])
    for part, seed in ((train, 1), (held, 2)):
        chats = stories.story_chats(part["stories"][:2000], 1, random.Random(seed))
        part["story_chat"] = [chat_text(chat) for chat in chats]
    # Passages instead of whole books, which would make the text one-sided.
    for kind, texts in (("books", children), ("prose", corpus.prose(args.corpus, 25))):
        long, held[kind] = corpus.books(texts)
        train[kind] = [text[i : i + 8000] for text in long for i in range(0, len(text) - 7999, 40_000)]
    for kind in ("service", "question", "arithmetic", "smalltalk"):
        train[kind], held[kind] = [], []
    for kind, chat in corpus.chats(args.corpus):
        text = chat_text(chat)
        (held if corpus.held_out(text) else train)[kind].append(text)
    rng = random.Random(0)
    texts = {
        "calibration": mix(train, args.calibration, rng),
        "evaluation": mix(held, args.evaluation, rng),
        "wikitext": corpus.wikitext(args.corpus)[: args.evaluation],
    }
    for name, text in texts.items():
        (args.out / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{name}.txt: {len(text)} characters")


if __name__ == "__main__":
    main()
