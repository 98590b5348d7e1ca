"""Reads the corpus: cleans it, cuts it into documents, and holds out 1 %.

A document is held out when the first eight hex digits of the SHA-1 of its text, taken as a number, are 0 modulo 100.
The choice depends only on the text, not on the order of the files or on a seed. Books are cut into passages of
about 8,000 characters, and the passages are held out one by one.
"""

import hashlib
import json
import lzma
import re
from pathlib import Path

SEPARATOR = "<|endoftext|>"
SHORT_STORY = 3000  # characters; TinyStories and the African Storybook are below this, children's books far above
PASSAGE = 8000  # characters

_TYPOGRAPHY = str.maketrans(
    {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " ", "\r": None, "\ufeff": None}
)


def held_out(text: str, one_in: int = 100) -> bool:
    """Whether this document belongs to the held-out part."""
    return int(hashlib.sha1(text.encode()).hexdigest()[:8], 16) % one_in == 0


def clean(text: str) -> str:
    """Plain quotation marks and apostrophes, no trailing blanks, at most one empty line in a row."""
    text = text.translate(_TYPOGRAPHY)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _read(path: Path) -> str:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def _unwrap(text: str) -> str:
    """Joins the hard-wrapped lines of a paragraph and drops the underscores that mark italics in plain-text books."""
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
    return re.sub(r"[ ]{2,}", " ", text.replace("_", ""))


def _passages(book: str) -> list[str]:
    """Cuts a book at paragraph ends into passages of about `PASSAGE` characters."""
    out, current, size = [], [], 0
    for paragraph in book.split("\n\n"):
        current.append(paragraph)
        size += len(paragraph) + 2
        if size >= PASSAGE:
            out.append("\n\n".join(current))
            current, size = [], 0
    if current:
        out.append("\n\n".join(current))
    return out


def stories(corpus: Path) -> tuple[list[str], list[str]]:
    """The short stories and the children's books of `stories.txt.xz`, cleaned.

    Short stories with hardly any capital letters are dropped: the model would learn to write without them.
    """
    short, books = [], []
    for text in _read(corpus / "stories.txt.xz").split(SEPARATOR):
        text = clean(text)
        if len(text) < 80:
            continue
        if len(text) < SHORT_STORY:
            if len(re.findall(r"[A-Z]", text)) >= 5:
                short.append(re.sub(r"\n\n+", "\n", text))
        else:
            books.append(text)
    return short, books


def books(texts: list[str]) -> tuple[list[str], list[str]]:
    """Cuts books into (training documents, held-out passages).

    Neighbouring passages that are both kept stay one document; a held-out passage splits its book in two.
    """
    train, held = [], []
    for text in texts:
        run: list[str] = []
        for passage in _passages(_unwrap(text)):
            if held_out(passage):
                held.append(passage)
                if run:
                    train.append("\n\n".join(run))
                run = []
            else:
                run.append(passage)
        if run:
            train.append("\n\n".join(run))
    return train, held


def prose(corpus: Path, keep_percent: int) -> list[str]:
    """The public-domain books for adults; only `keep_percent` of them, chosen by hash, are used."""
    texts = [clean(text) for text in _read(corpus / "prose.txt.xz").split(SEPARATOR)]
    return [t for t in texts if len(t) > 1000 and int(hashlib.sha1(t.encode()).hexdigest()[8:16], 16) % 100 < keep_percent]


def _sentence_case(text: str) -> str:
    """Capital letters at the starts of sentences and for "i": some dialogues are all in lower case."""
    text = re.sub(r"\bi\b(?!\.e)", "I", text)
    return re.sub(r"(^|[.!?]\s+)([a-z])", lambda m: m[1] + m[2].upper(), text)


KIND = {
    "schema": "service",
    "Taskma": "service",
    "gsm8k ": "arithmetic",
    "databr": "question",
    "chatte": "smalltalk",
    "Person": "smalltalk",
    "self-i": "question",
}


def chats(corpus: Path) -> list[tuple[str, list[dict]]]:
    """The dialogues as (kind, messages); kinds: service, arithmetic, question, smalltalk."""
    out = []
    for line in _read(corpus / "chat.jsonl.xz").rstrip("\n").split("\n"):
        item = json.loads(line)
        kind = KIND[item["source"][:6]]
        messages = [{"role": m["role"], "content": clean(m["content"])} for m in item["messages"]]
        if kind in ("service", "smalltalk"):
            for message in messages:
                message["content"] = _sentence_case(message["content"])
        if kind == "smalltalk":
            if "```" in str(messages):  # program listings are out of reach for a model of this size
                continue
            for message in messages:
                message["content"] = message["content"].replace(" Cortana", "")
        if sum(len(m["content"]) for m in messages) > 6000 or not all(m["content"] for m in messages):
            continue
        out.append((kind, messages))
    return out


def wikitext(corpus: Path) -> str:
    """WikiText-2 raw, test split; evaluation only."""
    return _read(corpus / "wikitext2.test.txt.xz")
