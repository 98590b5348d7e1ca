"""`multi_level_attention`: softmax attention over positions, over means of pairs, of fours, and so on, mixed by learned weights."""

from dataclasses import dataclass
from typing import Optional

import torch

from .attention import Heads, attend


@dataclass
class MultiLevelAttention(Heads):
    levels: int = 3
    windows: Optional[list] = None

    def shapes(self, hidden):
        return {**super().shapes(hidden), "level_logits.weight": (self.num_heads, self.levels)}

    def blocks(self, t, level):
        """The blocks of a level that `t` sees, as slices of the positions up to `t`."""
        size = 2 ** level
        window = self.windows[level] if self.windows else 0
        blocks = []
        for block in range(t // size + 1):
            last = (block + 1) * size - 1
            if not window or last > t - window:
                blocks.append(slice(block * size, min(last, t) + 1))
        return blocks

    def forward(self, w, u, eps):
        q, k, v = self.project(w, u, eps)
        mix = torch.softmax(w["level_logits.weight"], dim=-1)
        out = torch.zeros_like(q)
        for t in range(len(u)):
            for level in range(self.levels):
                blocks = self.blocks(t, level)
                keys, values = (torch.stack([x[block].mean(0) for block in blocks]) for x in (k, v))
                for head in range(self.num_heads):
                    kv = self.kv_head(head)
                    out[t, head] += mix[head, level] * attend(q[t, head], keys[:, kv], values[:, kv])
        return self.output(w, out)
