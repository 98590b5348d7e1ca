"""The xLSTM, made of mLSTM blocks (Beck et al., 2024 and 2025). Uses the names of an `xlstm` checkpoint of transformers.

Training needs no stabilizer state: the gates are soft-capped at 15, so exp(i) is at most 3.3e6, and the sums over a
context stay well within the range of f32 (and bf16). With everything unscaled, max(|q.n|, e^-m) e^m is max(|q.n|, 1).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import RmsNorm, chunk_scan, linear, token_loss


@dataclass(frozen=True)
class XlstmShape:
    """The sizes of the xLSTM."""

    vocabulary: int = 8192
    width: int = 192
    blocks: int = 5
    heads: int = 3  # of width 64, for both keys and values
    ffn: int = 384
    gate_cap: float = 15.0
    logit_cap: float = 30.0
    eps: float = 1e-6
    chunk: int = 64
    dropout: float = 0.0

    def config(self) -> dict:
        """config.json."""
        return {
            "architectures": ["xLSTMForCausalLM"],
            "model_type": "xlstm",
            "dtype": "bfloat16",
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "embedding_dim": self.width,
            "num_hidden_layers": self.blocks,
            "num_blocks": self.blocks,
            "num_heads": self.heads,
            "qk_dim_factor": 1.0,
            "v_dim_factor": 1.0,
            "ffn_proj_factor": self.ffn / self.width,
            "ffn_round_up_to_multiple_of": 64,
            "use_bias": False,
            "norm_eps": self.eps,
            "eps": self.eps,
            "norm_reduction_force_float32": True,
            "add_out_norm": True,
            "gate_soft_cap": self.gate_cap,
            "output_logit_soft_cap": self.logit_cap,
            "weight_mode": "single",
            "mode": "inference",
            "return_last_states": True,
            "chunk_size": self.chunk,
            "chunkwise_kernel": "chunkwise--native_autograd",
            "sequence_kernel": "native_sequence__native",
            "step_kernel": "native",
            "autocast_kernel_dtype": "float32",
            "inference_state_dtype": "float32",
            "max_inference_chunksize": 16384,
            "tie_word_embeddings": False,
            "use_cache": True,
            "bos_token_id": None,
            "eos_token_id": 4,
            "pad_token_id": 0,
        }


class HeadNorm(nn.Module):
    """LayerNorm of each head, without bias."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, h: Tensor) -> Tensor:
        f = F.layer_norm(h.float(), h.shape[-1:], eps=self.eps)
        return f.flatten(-2) * self.weight


class MLstm(nn.Module):
    """C_t = sigmoid(f) C_{t-1} + exp(i) k v^T, n likewise with k, h = (q C / sqrt(d)) / max(|q.n| / sqrt(d), 1)."""

    def __init__(self, s: XlstmShape):
        super().__init__()
        self.s = s
        self.q, self.k, self.v, self.ogate_preact = (linear(s.width, s.width) for _ in range(4))
        self.igate_preact, self.fgate_preact = (linear(s.heads, s.width, 0.1, bias=True) for _ in range(2))
        nn.init.constant_(self.igate_preact.bias, -4.0)
        with torch.no_grad():
            self.fgate_preact.bias.copy_(torch.linspace(3.0, 6.0, s.heads))
        self.multihead_norm = HeadNorm(s.width, s.eps)
        self.out_proj = linear(s.width, s.width, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        s = self.s
        b, length, _ = x.shape
        q, k, v = (f(x).view(b, length, s.heads, -1) for f in (self.q, self.k, self.v))
        i, f = (s.gate_cap * torch.tanh(g(x).float() / s.gate_cap) for g in (self.igate_preact, self.fgate_preact))
        weight = i.exp().unsqueeze(-1)
        # the normalizer n is the same recurrence with the value 1: one more value column, padded to a whole multiple of 8
        ones = F.pad(weight, (0, 7))
        values = torch.cat([v.float() * weight, ones], -1).to(v.dtype)
        out = chunk_scan(values, F.logsigmoid(f), k, q * (q.shape[-1] ** -0.5), s.chunk).float()
        dim = v.shape[-1]
        h = out[..., :dim] / (out[..., dim : dim + 1].abs().clamp(min=1.0) + s.eps)
        return self.out_proj((torch.sigmoid(self.ogate_preact(x)) * self.multihead_norm(h)).to(x.dtype))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, s: XlstmShape):
        super().__init__()
        self.proj_up_gate, self.proj_up = linear(s.ffn, s.width), linear(s.ffn, s.width)
        self.proj_down = linear(s.width, s.ffn, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_down(F.silu(self.proj_up_gate(x)) * self.proj_up(x))


class Block(nn.Module):
    """x += mlstm(norm(x)); x += ffn(norm(x))."""

    def __init__(self, s: XlstmShape):
        super().__init__()
        self.dropout = s.dropout
        self.norm_mlstm, self.norm_ffn = RmsNorm(s.width, s.eps), RmsNorm(s.width, s.eps)
        self.mlstm_layer, self.ffn = MLstm(s), FeedForward(s)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.dropout(self.mlstm_layer(self.norm_mlstm(x)), self.dropout, self.training)
        return x + F.dropout(self.ffn(self.norm_ffn(x)), self.dropout, self.training)


class Backbone(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, s: XlstmShape):
        super().__init__()
        self.embeddings = nn.Embedding(s.vocabulary, s.width)
        nn.init.normal_(self.embeddings.weight, std=0.3)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.blocks))
        self.out_norm = RmsNorm(s.width, s.eps)


class Xlstm(nn.Module):
    """The whole model; the output matrix is separate, because transformers doesn't tie it for this family."""

    balance_weight = 0.0

    def __init__(self, s: XlstmShape):
        super().__init__()
        self.shape = s
        self.backbone = Backbone(s)
        self.lm_head = linear(s.vocabulary, s.width, 0.3)

    def compile_parts(self) -> None:
        """Compiles one block (the others share it) and the loss."""
        for block in self.backbone.blocks:
            block.compile(fullgraph=True, dynamic=False)
        self._loss = torch.compile(token_loss, fullgraph=True, dynamic=False)

    _loss = staticmethod(token_loss)

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.backbone.embeddings(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        x = F.dropout(x, self.shape.dropout, self.training)
        for block in self.backbone.blocks:
            x = block(x)
        return self.backbone.out_norm(x)

    def loss(self, tokens: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of losses, number of counted targets, 0)."""
        x = self.hidden(tokens)
        total, count = self._loss(x, self.lm_head.weight, targets, mask, 1.0, self.shape.logit_cap)
        return total, count, total.new_zeros(())

    def logits(self, tokens: Tensor) -> Tensor:
        """[b, l, vocabulary]; l a multiple of the chunk."""
        cap = self.shape.logit_cap
        return cap * torch.tanh(self.lm_head(self.hidden(tokens)).float() / cap)
