"""The hybrid: Mamba-2 and attention layers, each followed by a mixture of experts with a shared expert.

Modules and parameters have the names of a `granitemoehybrid` checkpoint, so `state_dict()` is the content of the file.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import RmsNorm, causal_conv, chunk_scan, linear, rms, token_loss


@dataclass(frozen=True)
class HybridShape:
    """The sizes of the hybrid. Every matrix has an input width that is a multiple of 128 (for the quantizer's groups)."""

    vocabulary: int = 8192
    width: int = 256
    layers: str = "mmmammmamm"  # m: Mamba-2, a: attention
    attention_heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 64
    state: int = 128  # Mamba-2 state width, one group
    mamba_heads: int = 8  # of width 64, so that the inner width is 512
    mamba_head_dim: int = 64
    conv: int = 4
    experts: int = 8
    active: int = 2
    expert_width: int = 128
    shared_width: int = 128
    embedding_multiplier: float = 12.0
    residual_multiplier: float = 0.5
    attention_multiplier: float = 0.125
    logits_scaling: float = 2.0
    eps: float = 1e-5
    chunk: int = 128
    context: int = 2048
    dropout: float = 0.0

    @property
    def inner(self) -> int:
        return self.mamba_heads * self.mamba_head_dim

    def config(self) -> dict:
        """config.json, in a form that transformers 4 and 5 and llama.cpp's converter can read."""
        return {
            "architectures": ["GraniteMoeHybridForCausalLM"],
            "model_type": "granitemoehybrid",
            "dtype": "bfloat16",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.expert_width,
            "shared_intermediate_size": self.shared_width,
            "num_hidden_layers": len(self.layers),
            "layer_types": ["mamba" if kind == "m" else "attention" for kind in self.layers],
            "num_attention_heads": self.attention_heads,
            "num_key_value_heads": self.key_value_heads,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "position_embedding_type": "nope",
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "rope_theta": 10000.0,
            "max_position_embeddings": self.context,
            "hidden_act": "silu",
            "rms_norm_eps": self.eps,
            "initializer_range": 0.02,
            "embedding_multiplier": self.embedding_multiplier,
            "residual_multiplier": self.residual_multiplier,
            "attention_multiplier": self.attention_multiplier,
            "logits_scaling": self.logits_scaling,
            "num_local_experts": self.experts,
            "num_experts_per_tok": self.active,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.01,
            "mamba_n_heads": self.mamba_heads,
            "mamba_d_head": self.mamba_head_dim,
            "mamba_n_groups": 1,
            "mamba_d_state": self.state,
            "mamba_d_conv": self.conv,
            "mamba_expand": self.inner // self.width,
            "mamba_chunk_size": self.chunk,
            "mamba_conv_bias": True,
            "mamba_proj_bias": False,
            "tie_word_embeddings": True,
            "use_cache": True,
            "bos_token_id": None,
            "eos_token_id": 4,
            "pad_token_id": 0,
        }


class GatedNorm(nn.Module):
    """RMSNorm of y * silu(gate), the norm after the gate."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        return rms(y.float() * F.silu(gate.float()), self.weight, self.eps).to(gate.dtype)


class Mamba2(nn.Module):
    """Mamba-2 mixer: S_t = exp(A dt_t) S_{t-1} + dt_t B_t x_t^T, y_t = C_t S_t + D x_t (Dao and Gu, 2024)."""

    def __init__(self, s: HybridShape):
        super().__init__()
        self.s = s
        channels = s.inner + 2 * s.state
        self.in_proj = linear(s.inner + channels + s.mamba_heads, s.width)
        self.conv1d = nn.Conv1d(channels, channels, s.conv, groups=channels)
        dt = torch.exp(torch.rand(s.mamba_heads) * (math.log(0.1) - math.log(1e-3)) + math.log(1e-3))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt
        self.A_log = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, s.mamba_heads)))
        self.D = nn.Parameter(torch.ones(s.mamba_heads))
        self.norm = GatedNorm(s.inner, s.eps)
        self.out_proj = linear(s.width, s.inner, 0.5)

    def forward(self, u: Tensor) -> Tensor:
        s = self.s
        b, length, _ = u.shape
        gate, mixed, dt = self.in_proj(u).split([s.inner, s.inner + 2 * s.state, s.mamba_heads], -1)
        mixed = F.silu(causal_conv(mixed, self.conv1d.weight, self.conv1d.bias))
        x, keys, queries = mixed.split([s.inner, s.state, s.state], -1)
        x = x.reshape(b, length, s.mamba_heads, s.mamba_head_dim)
        dt = F.softplus(dt.float() + self.dt_bias)
        y = chunk_scan(
            (x * dt.unsqueeze(-1)).to(x.dtype),
            -torch.exp(self.A_log.float()) * dt,
            keys.unsqueeze(2),
            queries.unsqueeze(2),
            s.chunk,
        )
        y = y + x * self.D.to(x.dtype).unsqueeze(-1)
        return self.out_proj(self.norm(y.reshape(b, length, s.inner), gate))


class Attention(nn.Module):
    """Grouped-query attention without position encoding; the Mamba-2 layers below provide the order."""

    def __init__(self, s: HybridShape):
        super().__init__()
        self.s = s
        self.q_proj = linear(s.attention_heads * s.head_dim, s.width)
        self.k_proj = linear(s.key_value_heads * s.head_dim, s.width)
        self.v_proj = linear(s.key_value_heads * s.head_dim, s.width)
        self.o_proj = linear(s.width, s.attention_heads * s.head_dim, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        s = self.s
        b, length, _ = x.shape
        q = self.q_proj(x).view(b, length, s.attention_heads, s.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, length, s.key_value_heads, s.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, length, s.key_value_heads, s.head_dim).transpose(1, 2)
        k, v = (t.repeat_interleave(s.attention_heads // s.key_value_heads, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=s.attention_multiplier)
        return self.o_proj(y.transpose(1, 2).reshape(b, length, -1))


class Weight(nn.Module):
    """A bare tensor under the name `weight`."""

    def __init__(self, *shape: int, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape) * gain / shape[-1] ** 0.5)


class Router(nn.Module):
    """Holds the router matrix under the checkpoint's name `router.layer.weight`."""

    def __init__(self, experts: int, width: int):
        super().__init__()
        self.layer = Weight(experts, width, gain=0.3)


class Experts(nn.Module):
    """Top-k of the experts by router logit, weighted by the softmax over those k.

    In training, every expert is computed for every token, and unchosen ones are weighted by zero: at this width two
    large matrix products are faster than sorting tokens, and the result is the same.
    """

    def __init__(self, s: HybridShape):
        super().__init__()
        self.s = s
        self.input_linear = Weight(s.experts, 2 * s.expert_width, s.width)
        self.output_linear = Weight(s.experts, s.width, s.expert_width, gain=0.5)
        self.router = Router(s.experts, s.width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the output and the load-balancing loss (Fedus et al., 2021, eq. 4; 1 when balanced)."""
        s = self.s
        with torch.autocast(x.device.type, enabled=False):
            scores = F.linear(x.float(), self.router.layer.weight.float())
        left = scores.detach()
        for _ in range(s.active - 1):
            left = left.masked_fill(left >= left.amax(-1, keepdim=True), float("-inf"))
        chosen = scores >= left.amax(-1, keepdim=True)
        gates = scores.masked_fill(~chosen, float("-inf")).softmax(-1)
        share = chosen.float().flatten(0, 1).mean(0) / s.active
        balance = s.experts * (share * scores.softmax(-1).flatten(0, 1).mean(0)).sum()
        both = F.linear(x, self.input_linear.weight.flatten(0, 1)).unflatten(-1, (s.experts, 2, s.expert_width))
        inner = F.silu(both[..., 0, :]) * both[..., 1, :] * gates.to(x.dtype).unsqueeze(-1)
        return inner.flatten(-2) @ self.output_linear.weight.to(inner.dtype).transpose(1, 2).flatten(0, 1), balance


class SharedExpert(nn.Module):
    """The shared expert, used for every token: SwiGLU."""

    def __init__(self, s: HybridShape):
        super().__init__()
        self.input_linear = linear(2 * s.shared_width, s.width)
        self.output_linear = linear(s.width, s.shared_width, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.input_linear(x).chunk(2, -1)
        return self.output_linear(F.silu(gate) * up)


class Layer(nn.Module):
    """x += r mixer(norm(x)); x += r (experts(norm(x)) + shared(norm(x)))."""

    def __init__(self, s: HybridShape, kind: str):
        super().__init__()
        self.s, self.kind = s, kind
        self.input_layernorm = RmsNorm(s.width, s.eps)
        self.post_attention_layernorm = RmsNorm(s.width, s.eps)
        if kind == "m":
            self.mamba = Mamba2(s)
        else:
            self.self_attn = Attention(s)
        self.block_sparse_moe = Experts(s)
        self.shared_mlp = SharedExpert(s)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = self.s
        normed = self.input_layernorm(x)
        mixed = self.mamba(normed) if self.kind == "m" else self.self_attn(normed)
        x = x + F.dropout(mixed, s.dropout, self.training) * s.residual_multiplier
        normed = self.post_attention_layernorm(x)
        routed, balance = self.block_sparse_moe(normed)
        return x + F.dropout(routed + self.shared_mlp(normed), s.dropout, self.training) * s.residual_multiplier, balance


class Backbone(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, s: HybridShape):
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocabulary, s.width)
        nn.init.normal_(self.embed_tokens.weight, std=0.03)
        self.layers = nn.ModuleList(Layer(s, kind) for kind in s.layers)
        self.norm = RmsNorm(s.width, s.eps)


class Hybrid(nn.Module):
    """The whole model; the output matrix is the embedding."""

    balance_weight = 0.01

    def __init__(self, s: HybridShape):
        super().__init__()
        self.shape = s
        self.model = Backbone(s)

    def compile_parts(self) -> None:
        """Compiles a layer of each kind (the others share it) and the loss."""
        for layer in self.model.layers:
            layer.compile(fullgraph=True, dynamic=False)
        self._loss = torch.compile(token_loss, fullgraph=True, dynamic=False)

    _loss = staticmethod(token_loss)

    def hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        s = self.shape
        x = self.model.embed_tokens(tokens) * s.embedding_multiplier
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        x = F.dropout(x, s.dropout, self.training)
        balance = x.new_zeros((), dtype=torch.float32)
        for layer in self.model.layers:
            x, b = layer(x)
            balance = balance + b
        return self.model.norm(x), balance / len(self.model.layers)

    def loss(self, tokens: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of losses, number of counted targets, balance loss)."""
        x, balance = self.hidden(tokens)
        total, count = self._loss(x, self.model.embed_tokens.weight, targets, mask, 1.0 / self.shape.logits_scaling, None)
        return total, count, balance

    def logits(self, tokens: Tensor) -> Tensor:
        """[b, l, vocabulary]; l a multiple of the chunk."""
        return F.linear(self.hidden(tokens)[0], self.model.embed_tokens.weight).float() / self.shape.logits_scaling
