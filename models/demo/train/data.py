"""Batches from the token streams, which are kept in the device's memory.

A batch depends only on the seed and the step, so a resumed run sees the same data as an uninterrupted one.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SEPARATOR, SYSTEM, USER, ASSISTANT, END_OF_TURN = range(5)  # ids of the special tokens

# Share of the rows that begin with a document of this kind. The first stage is plain language modelling; in the last
# one only the assistant's turns of a dialogue count, and a little plain text remains so that it is not forgotten.
FIRST_STAGE = {
    "prose": 0.2,
    "books": 0.1,
    "stories": 0.06,
    "story_chat": 0.42,
    "service": 0.12,
    "question": 0.04,
    "booking": 0.03,
    "arithmetic": 0.015,
    "smalltalk": 0.01,
    "about": 0.005,
}
LAST_STAGE = {
    "story_chat": 0.52,
    "service": 0.16,
    "booking": 0.1,
    "question": 0.05,
    "smalltalk": 0.03,
    "about": 0.012,
    "arithmetic": 0.008,
    "books": 0.05,
    "prose": 0.07,
}


class Streams:
    """All training streams on one device; `batch` cuts rows out of them."""

    def __init__(self, folder: Path, device: torch.device):
        self.device = device
        self.base, self.length, self.starts = {}, {}, {}
        parts, position = [], 0
        for kind in FIRST_STAGE:
            with np.load(folder / f"{kind}.train.npz") as file:
                tokens, starts = file["tokens"].astype(np.int16), file["starts"]
            self.base[kind], self.length[kind] = position, len(tokens)
            self.starts[kind] = torch.from_numpy(starts).long()
            parts.append(tokens)
            position += len(tokens)
        self.tokens = torch.from_numpy(np.concatenate(parts)).to(device)  # ids are below 8192, so i16 holds them

    def batch(self, mixture: dict[str, float], rows: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
        """(inputs, targets), each [rows, length]. Rows of the long kinds begin anywhere, the others at a document's start."""
        generator = torch.Generator().manual_seed(seed)
        kinds = list(mixture)
        choice = torch.multinomial(torch.tensor(list(mixture.values())), rows, replacement=True, generator=generator)
        position = torch.rand(rows, generator=generator, dtype=torch.float64)
        begin, base, wrap = torch.empty(3, rows, dtype=torch.long)
        for row in range(rows):
            kind = kinds[choice[row]]
            size, starts = self.length[kind], self.starts[kind]
            begin[row] = int(position[row] * size) if kind in ("prose", "books") else starts[int(position[row] * len(starts))]
            base[row], wrap[row] = self.base[kind], size
        begin, base, wrap = (t.to(self.device, non_blocking=True).unsqueeze(1) for t in (begin, base, wrap))
        rows_ = self.tokens[base + (begin + torch.arange(length + 1, device=self.device)) % wrap].long()
        return rows_[:, :-1].contiguous(), rows_[:, 1:].contiguous()


def assistant_mask(tokens: Tensor) -> Tensor:
    """True where the next token belongs to a turn of the assistant, its <|end|> included; everywhere in rows of plain text.

    tokens [b, l].
    """
    marker = (tokens == SEPARATOR) | (tokens == SYSTEM) | (tokens == USER) | (tokens == ASSISTANT)
    position = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    last = torch.where(marker, position, -1).cummax(1).values
    speaker = tokens.gather(1, last.clamp(min=0))
    plain = ~(tokens == USER).any(1, keepdim=True)
    return plain | ((last >= 0) & (speaker == ASSISTANT) & (tokens != END_OF_TURN))


def held_rows(path: Path, length: int, limit: int) -> tuple[Tensor, Tensor]:
    """The first `limit` rows of a held-out stream, cut without overlap: (inputs, targets) [rows, length].

    Chats are padded to one document per row, so that each is read from its beginning; a padded target is -1.
    """
    with np.load(path) as file:
        tokens, starts = torch.from_numpy(file["tokens"].astype(np.int64)), file["starts"]
    rows = []
    if path.name.split(".")[0] in ("prose", "books", "wikitext2"):
        for begin in range(0, len(tokens) - 1, length):
            rows.append(tokens[begin : begin + length + 1])
    else:
        ends = list(starts[1:]) + [len(tokens)]
        rows = [tokens[a:b][: length + 1] for a, b in zip(starts, ends)]
    rows = [r for r in rows if len(r) > 1][:limit]
    inputs = torch.zeros(limit, length, dtype=torch.long)  # always `limit` rows: one shape to compile
    targets = torch.full((limit, length), -1)
    for i, row in enumerate(rows):
        inputs[i, : len(row) - 1], targets[i, : len(row) - 1] = row[:-1], row[1:]
    return inputs, targets
