"""Makes the training data: the tokenizer and, for each kind, streams of token ids (u16) with their held-out parts.

    python prepare.py --corpus CORPUS --out DATA [--seed 1]

Writes DATA/tokenizer.json, DATA/{kind}.train.npz and DATA/{kind}.held.npz (arrays `tokens`, u16, and `starts`, i32: where
documents begin). Every document ends with <|endoftext|>. Chats are in the chat template's form.
"""

import argparse
import multiprocessing
import random
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

import bookings
import corpus
import stories
from tokenizer import END_OF_TEXT, chat_text, train_tokenizer

SYSTEM = [
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a storyteller.",
    "Be kind and short.",
    "Answer in simple words.",
]
STORY_VARIANTS = 2  # rewritten copies of a story, both plain and as an answer
STORY_CHAT_VARIANTS = 10


def _plain_variants(args: tuple[list[str], int]) -> list[str]:
    texts, seed = args
    rng = random.Random(seed)
    return [t if i == 0 else stories.rewrite(t, rng) for t in texts for i in range(STORY_VARIANTS)]


def _story_chats(args: tuple[list[str], int]) -> list[list[dict]]:
    texts, seed = args
    return stories.story_chats(texts, STORY_CHAT_VARIANTS, random.Random(seed))


def _pieces(items: list, seed: int, size: int = 500) -> list[tuple[list, int]]:
    """Cuts work into pieces with separate seeds, so that the result doesn't depend on the number of processes."""
    return [(items[i : i + size], seed * 100_003 + i) for i in range(0, len(items), size)]


def _with_system(chat: list[dict], rng: random.Random) -> list[dict]:
    """One chat in ten gets a general system message, so that the model can cope with one."""
    return [{"role": "system", "content": rng.choice(SYSTEM)}] + chat if rng.random() < 0.1 else chat


def save(path: Path, tokenizer: Tokenizer, documents: list[str]) -> None:
    """Encodes documents, joins them and writes the stream."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    parts, starts, position = [], [], 0
    for begin in range(0, len(documents), 2000):
        for encoding in tokenizer.encode_batch_fast(documents[begin : begin + 2000], add_special_tokens=False):
            starts.append(position)
            parts.append(np.array(encoding.ids + [end], dtype=np.uint16))
            position += len(encoding.ids) + 1
    np.savez(path, tokens=np.concatenate(parts), starts=np.array(starts, dtype=np.int32))
    print(
        f"{path.name}: {len(documents)} documents, {position} tokens, {sum(map(len, documents)) / position:.2f} characters a token",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prose-percent", type=int, default=25, help="percentage of the old books to use")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)

    short, children = corpus.stories(args.corpus)
    kept = [t for t in short if not corpus.held_out(t)]
    stories.learn_nouns(kept)  # before the worker processes start, which inherit the list
    held = {"stories": [t for t in short if corpus.held_out(t)]}
    train = {}
    train["books"], held["books"] = corpus.books(children)
    train["prose"], held["prose"] = corpus.books(corpus.prose(args.corpus, args.prose_percent))
    kinds: dict[str, list] = {"service": [], "arithmetic": [], "question": [], "smalltalk": []}
    held_chats: dict[str, list] = {kind: [] for kind in kinds}
    for kind, chat in corpus.chats(args.corpus):
        (held_chats if corpus.held_out(chat_text(chat)) else kinds)[kind].append(chat)
    with multiprocessing.Pool(args.workers) as pool:
        train["stories"] = sum(pool.map(_plain_variants, _pieces(kept, args.seed)), [])
        kinds["story_chat"] = sum(pool.map(_story_chats, _pieces(kept, args.seed + 1)), [])
    held_chats["story_chat"] = stories.story_chats(held["stories"], 1, random.Random(args.seed + 2))
    kinds["booking"] = bookings.service_chats(6000, rng)
    kinds["about"] = bookings.about_chats(1500, rng)
    for kind, items in kinds.items():
        train[kind] = [chat_text(_with_system(chat, rng)) for chat in items]
    for kind, items in held_chats.items():
        held[kind] = [chat_text(chat) for chat in items]
    for documents in train.values():
        rng.shuffle(documents)

    share = {"stories": 0.2, "books": 0.6, "prose": 0.2, "service": 1.0, "question": 1.0, "arithmetic": 0.5}
    sample = [t[:200_000] for kind, part in share.items() for t in train[kind][: int(len(train[kind]) * part)]]
    tokenizer = train_tokenizer(sample)
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    for kind, documents in train.items():
        save(args.out / f"{kind}.train.npz", tokenizer, documents)
    held["wikitext2"] = [corpus.wikitext(args.corpus)]
    for kind, documents in held.items():
        save(args.out / f"{kind}.held.npz", tokenizer, documents)


if __name__ == "__main__":
    main()
