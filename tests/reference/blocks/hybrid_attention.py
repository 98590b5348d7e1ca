"""`hybrid_attention`: what a token sees depends on its position: everything, then a window with dilated and global keys, then a
linear memory beside them, then a hierarchy of block means too."""

from dataclasses import dataclass

import torch

from .attention import Heads, attend
from .linear_attention import read_memory

# Scores of the selection are compared after rounding to this many steps a unit.
STEPS = 1024
# A choice of keys that changes if one score moves by this much would depend on rounding.
NOISE = 3e-6


@dataclass
class HybridAttention(Heads):
    window: int = 4096
    full_until: int = 4096
    dilated_until: int = 32768
    linear_until: int = 1000000
    levels: int = 3
    global_first: int = 4
    global_top: int = 64
    context: bool = True
    hierarchy_block: int = 64
    hierarchy_levels: int = 4
    hierarchy_width: int = 16

    def shapes(self, hidden):
        shapes = {**super().shapes(hidden), "linear_gate.weight": (self.num_heads,)}
        if self.context:
            shapes["context.weight"] = (self.num_kv_heads, hidden)
        return shapes

    def forward(self, w, u, eps):
        q, k, v = self.project(w, u, eps)
        score = w.linear("context", u) if self.context else u.new_zeros(len(u), self.num_kv_heads)
        gate = torch.sigmoid(w["linear_gate.weight"])
        out = torch.empty_like(q)
        for t in range(len(u)):
            for kv in range(self.num_kv_heads):
                if self.context:
                    w.gaps.append(self.selection_gap(t, score[:, kv]))
                keys, values, scores = self.seen(t, k[:, kv], v[:, kv], score[:, kv])
                past = max(t - self.window + 1, 0)  # the keys outside the window
                for head in range(self.num_heads):
                    if self.kv_head(head) != kv:
                        continue
                    out[t, head] = attend(q[t, head], keys, values, scores)
                    if past and t + 1 > self.dilated_until:
                        memory = read_memory(q[t, head], k[:past, kv], v[:past, kv])
                        out[t, head] = (1 - gate[head]) * out[t, head] + gate[head] * memory
        return self.output(w, out)

    def seen(self, t, k, v, score):
        """The keys, values and scores that `t` sees by softmax: positions, then block means."""
        positions = self.positions(t, score)
        blocks = self.blocks(t) if t + 1 > self.linear_until else []

        def of(x):
            return torch.cat([x[positions]] + [x[block].mean(0, keepdim=True) for block in blocks])

        return of(k), of(v), of(score)

    def positions(self, t, score):
        """The positions that `t` sees by softmax, each once."""
        if t + 1 <= self.full_until:
            return list(range(t + 1))
        chosen = {j for j in range(t + 1) if t - j < self.window}
        if t + 1 <= self.dilated_until:
            for level in range(1, self.levels + 1):
                near, far = self.window * 2 ** (level - 1), self.window * 2 ** level
                chosen |= {j for j in range(t + 1) if near <= t - j < far and j % 2 ** level == 0}
        chosen |= set(range(min(self.global_first, t + 1)))
        chosen |= self.top(t, score)
        return sorted(chosen)

    def top(self, t, score):
        """The `global_top` highest scores outside the window; of equal ones the earlier."""
        if not self.context:
            return set()
        outside = range(max(t - self.window + 1, 0))
        rounded = torch.floor(STEPS * score + 0.5).tolist()
        return set(sorted(outside, key=lambda j: (-rounded[j], j))[:self.global_top])

    def selection_gap(self, t, score):
        """0 if noise in one score could change the selection, infinity otherwise."""
        if t + 1 <= self.full_until:
            return float("inf")
        expected = self.top(t, score)
        for j in range(max(t - self.window + 1, 0)):
            for noise in (-NOISE, NOISE):
                near = score[j] + noise
                if torch.floor(STEPS * near + 0.5) != torch.floor(STEPS * score[j] + 0.5):
                    moved = score.clone()
                    moved[j] = near
                    if self.top(t, moved) != expected:
                        return 0.0
        return float("inf")

    def blocks(self, t):
        """The blocks of the hierarchy that `t` sees, as slices of positions."""
        blocks = []
        for level in range(self.hierarchy_levels):
            size = self.hierarchy_block * 2 ** level
            complete = max(t - self.window + 1, 0) // size
            blocks += [slice(b * size, (b + 1) * size) for b in range(max(complete - self.hierarchy_width, 0), complete)]
        return blocks
