"""Defines fixture cases and lists all of them.

The cases are in `cases_*.py`, one list per family.
"""

from dataclasses import dataclass, field
from typing import Any, Callable


@dataclass
class Case:
    """One checkpoint with its reference outputs: `tests/fixtures/<family>/<name>/`."""

    family: str  # the `model_type` of config.json
    name: str
    config: dict[str, Any]  # arguments of the config class
    length: int = 80  # reference tokens
    seed: int = 0  # the first seed tried
    # Features that must have an effect: label -> config fields to change, or a function that changes a loaded model in place.
    # The change must move the logits by at least `ablation_floor` (relative L2).
    ablations: dict[str, dict[str, Any] | Callable] = field(default_factory=dict)
    ablation_floor: float = 1e-3
    dtype: str = "float32"  # of the stored weights; the reference is always f32 arithmetic
    keep_f32: tuple[str, ...] = ()  # name suffixes of the tensors that stay f32 in a half-precision case
    shard: str | None = None  # `max_shard_size` of save_pretrained
    # What the cached decoding of transformers must do: give the "same" greedy tokens as full recomputation, give
    # "other" ones (a known defect, see `note`), or be "unsupported" for this config.
    cached: str = "same"
    gains: dict[str, float] = field(default_factory=dict)  # name fragment -> factor on the random weight's scale
    logit_std: float = 2.0
    note: str = ""

    @property
    def path(self):
        return f"{self.family}/{self.name}"


def all_cases():
    """Every case, in the order in which they are generated."""
    import cases_delta
    import cases_dense
    import cases_hybrid
    import cases_kimi
    import cases_lfm2
    import cases_minimax
    import cases_moe
    import cases_recurrent
    import cases_zamba

    cases = cases_dense.CASES + cases_moe.CASES + cases_recurrent.CASES + cases_hybrid.CASES
    cases += cases_delta.CASES + cases_kimi.CASES + cases_lfm2.CASES + cases_minimax.CASES + cases_zamba.CASES
    paths = [case.path for case in cases]
    assert len(paths) == len(set(paths)), "two cases share a name"
    return cases


def variant(case, name, **changes):
    """A copy of `case` under another name with some fields replaced; `config` is merged."""
    from dataclasses import replace

    if "config" in changes:
        changes["config"] = {**case.config, **changes["config"]}
    return replace(case, name=name, **changes)


def zero(*fragments):
    """An ablation: zeroes every parameter whose name contains one of the fragments."""

    def change(model):
        hit = [p.zero_() for name, p in model.named_parameters() if any(f in name for f in fragments)]
        assert hit, f"no parameter is called {fragments}"

    return change
