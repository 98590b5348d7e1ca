"""`moe`: a mixture of experts with two stages of routing."""

from dataclasses import dataclass
from typing import Optional

import torch
from torch.nn.functional import linear

from .mlp import ACTIVATIONS
from .weights import linear_shapes, rms


@dataclass
class Moe:
    num_experts: int
    top_k: int
    intermediate_size: int
    activation: str = "silu"
    temperature: float = 1
    groups: int = 1
    top_groups: Optional[int] = None
    shared_intermediate_size: int = 0
    latent_size: int = 0
    expert_norm: bool = False

    def __post_init__(self):
        if self.top_groups is None:
            self.top_groups = self.groups

    def shapes(self, hidden):
        width = self.latent_size or hidden
        shapes = {"router.weight": (self.num_experts, hidden)}
        if self.latent_size:
            shapes.update({"latent_in.weight": (width, hidden), "latent_out.weight": (hidden, width)})
        if self.expert_norm:
            shapes["experts.norm.weight"] = (self.num_experts, width)
        shapes["experts.gate.weight"] = (self.num_experts, self.intermediate_size, width)
        shapes["experts.up.weight"] = (self.num_experts, self.intermediate_size, width)
        shapes["experts.down.weight"] = (self.num_experts, width, self.intermediate_size)
        if self.shared_intermediate_size:
            for name in ("gate", "up"):
                shapes.update(linear_shapes(f"shared.{name}", self.shared_intermediate_size, hidden, False))
            shapes.update(linear_shapes("shared.down", hidden, self.shared_intermediate_size, False))
        return shapes

    def route(self, p, logits, gaps):
        """The experts of a token and their weights, from probabilities `[experts]`."""
        groups = p.unflatten(-1, (self.groups, -1))
        best = best_of(groups.amax(-1), self.top_groups)
        gaps.append(gap(logits.unflatten(-1, (self.groups, -1)).amax(-1), best))
        size = self.num_experts // self.groups
        allowed = [e for e in range(self.num_experts) if e // size in best]
        chosen = [allowed[place] for place in best_of(p[allowed], self.top_k)]
        gaps.append(gap(logits[allowed], [allowed.index(e) for e in chosen]))
        return chosen, p[chosen] / p[chosen].sum()

    def expert(self, w, e, x, eps):
        if self.expert_norm:
            x = rms(x, eps) * w["experts.norm.weight"][e]
        gate, up, down = (w[f"experts.{name}.weight"][e] for name in ("gate", "up", "down"))
        return linear(ACTIVATIONS[self.activation](linear(x, gate)) * linear(x, up), down)

    def forward(self, w, u, eps):
        x = w.linear("latent_in", u) if self.latent_size else u
        logits = w.linear("router", u) / self.temperature
        p = torch.softmax(logits, dim=-1)
        y = torch.zeros_like(x)
        for t in range(len(u)):
            chosen, weights = self.route(p[t], logits[t], w.gaps)
            for e, weight in zip(chosen, weights):
                y[t] += weight * self.expert(w, e, x[t], eps)
        if self.latent_size:
            y = w.linear("latent_out", y)
        if self.shared_intermediate_size:
            act = ACTIVATIONS[self.activation]
            y = y + w.linear("shared.down", act(w.linear("shared.gate", u)) * w.linear("shared.up", u))
        return y


def best_of(values, count):
    """The places of the largest values; of equal ones the first."""
    values = values.tolist()
    return sorted(range(len(values)), key=lambda place: (-values[place], place))[:count]


def gap(values, chosen):
    """How far the last of the chosen is from the best of the others."""
    others = [v for place, v in enumerate(values.tolist()) if place not in chosen]
    return float(values[chosen].min()) - max(others) if others else float("inf")
