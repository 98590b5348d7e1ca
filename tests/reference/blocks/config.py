"""The fields of config.json."""

from dataclasses import dataclass, fields
from typing import Any, Optional

from .attention import Attention
from .hybrid_attention import HybridAttention
from .linear_attention import LinearAttention
from .mamba import Mamba
from .mamba2 import Mamba2
from .mlp import Mlp
from .mlstm import Mlstm
from .moe import Moe
from .multi_level_attention import MultiLevelAttention
from .slstm import Slstm

PARTS = {
    "mlp": Mlp,
    "attention": Attention,
    "linear_attention": LinearAttention,
    "hybrid_attention": HybridAttention,
    "multi_level_attention": MultiLevelAttention,
    "mamba": Mamba,
    "mamba2": Mamba2,
    "mlstm": Mlstm,
    "slstm": Slstm,
    "moe": Moe,
}
# What a part may set for itself in place of the model's.
OWN = ("norm", "norm_eps", "residual_scale")
# Fields that say nothing of the computation.
BESIDE = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "quantization", "quantization_config")


@dataclass
class Part:
    """One residual block."""

    layer: Any  # one of `PARTS`
    norm: str
    norm_eps: float
    residual_scale: float


@dataclass
class Config:
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    kinds: dict
    pattern: list
    norm: str = "rms"
    norm_eps: float = 1e-5
    norm_position: str = "pre"
    positions: str = "none"
    max_position_embeddings: int = 0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_soft_cap: Optional[float] = None
    tie_word_embeddings: bool = True

    @staticmethod
    def read(values):
        return Config(**{k: v for k, v in values.items() if k not in BESIDE and not k.endswith("_token_id")})

    def part(self, values):
        values = dict(values)
        own = {name: values.pop(name, getattr(self, name)) for name in OWN}
        return Part(PARTS[values.pop("type")](**values), **own)

    def layers(self):
        """The parts of every layer."""
        names = [self.pattern[i % len(self.pattern)] for i in range(self.num_hidden_layers)]
        return [[self.part(values) for values in self.kinds[name]] for name in names]


def spelled_out(values):
    """The same config with every default written."""
    config = Config.read(values)
    out = {**{f.name: getattr(config, f.name) for f in fields(Config)}, **values}
    out["kinds"] = {name: [_spelled_out(config, part) for part in parts] for name, parts in values["kinds"].items()}
    return out


def _spelled_out(config, values):
    part = config.part(values)
    layer = {f.name: getattr(part.layer, f.name) for f in fields(part.layer)}
    if values["type"] == "mamba":
        layer["dt_rank"] = part.layer.rank(config.hidden_size)
    return {**{name: getattr(part, name) for name in OWN}, **layer, "type": values["type"]}
