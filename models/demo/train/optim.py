"""The optimizers: Muon for the hidden matrices, AdamW for everything else.

Muon (Jordan et al., 2024) orthogonalizes the momentum of a matrix by a Newton-Schulz iteration. Matrices with the same
shape are stacked and iterated together; a stack of experts counts as that many matrices.
"""

import torch
from torch import Tensor, nn


def orthogonalize(g: Tensor, steps: int = 5) -> Tensor:
    """Drives the singular values of each matrix of the stack g [n, rows, columns] toward 1 (quintic Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = g.bfloat16() if g.is_cuda else g
    x = x.transpose(-1, -2) if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.transpose(-1, -2) if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized; decoupled weight decay. Parameters have two dimensions, or three (stacked matrices)."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            by_shape: dict[tuple, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, params in by_shape.items():
                buffers = []
                for p in params:
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p)
                    buffers.append(state["momentum"])
                grads = [p.grad for p in params]
                torch._foreach_lerp_(buffers, grads, 1 - momentum)
                updates = torch.stack(torch._foreach_lerp(grads, buffers, momentum))
                rows, columns = shape[-2:]
                updates = orthogonalize(updates.view(-1, rows, columns)).view(len(params), *shape)
                updates = updates * max(1.0, rows / columns) ** 0.5
                torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
                torch._foreach_add_(params, list(updates.unbind()), alpha=-lr)


def _is_hidden_matrix(name: str, p: nn.Parameter) -> bool:
    plain = ("embed", "lm_head", "router", "conv1d", "igate", "fgate")
    return p.ndim >= 2 and not any(word in name for word in plain)


def make_optimizers(model: nn.Module, muon_lr: float, adam_lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Both optimizers, each group with its starting rate under `base_lr`."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if _is_hidden_matrix(n, p)]
    tables = [p for n, p in named if not _is_hidden_matrix(n, p) and p.ndim >= 2 and "conv1d" not in n]
    rest = [p for n, p in named if not _is_hidden_matrix(n, p) and (p.ndim < 2 or "conv1d" in n)]
    adam = torch.optim.AdamW(
        [{"params": tables, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=adam_lr,
        betas=(0.9, 0.97),
        eps=1e-10,
        fused=matrices[0].is_cuda,
    )
    optimizers = [Muon(matrices, muon_lr, weight_decay=weight_decay), adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers
