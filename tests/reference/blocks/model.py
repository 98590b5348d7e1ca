"""The whole language model."""

import torch

from . import norm
from .config import Config
from .positions import sinusoidal
from .weights import Weights


class Model:
    """A config with the tensors of its checkpoint."""

    def __init__(self, values, tensors):
        self.config, self.tensors = Config.read(values), tensors

    def to(self, dtype):
        """The same model with its weights in another dtype, which everything is then computed in."""
        model = Model.__new__(Model)
        model.config, model.tensors = self.config, {name: t.to(dtype) for name, t in self.tensors.items()}
        return model

    def shapes(self):
        """Every tensor of the checkpoint with its shape."""
        c = self.config
        shapes = {"model.embed_tokens.weight": (c.vocab_size, c.hidden_size)}
        if c.positions == "learned":
            shapes["model.embed_positions.weight"] = (c.max_position_embeddings, c.hidden_size)
        for i, layer in enumerate(c.layers()):
            for j, part in enumerate(layer):
                own = {**norm.shapes(part.norm, "norm", c.hidden_size), **part.layer.shapes(c.hidden_size)}
                shapes.update({f"model.layers.{i}.{j}.{name}": shape for name, shape in own.items()})
        shapes.update(norm.shapes(c.norm, "model.norm", c.hidden_size))
        if not c.tie_word_embeddings:
            shapes["lm_head.weight"] = (c.vocab_size, c.hidden_size)
        return shapes

    def embed(self, tokens):
        c, table = self.config, self.tensors["model.embed_tokens.weight"]
        x = c.embedding_scale * table[tokens]
        if c.positions == "learned":
            x = x + self.tensors["model.embed_positions.weight"][:len(tokens)]
        if c.positions == "sinusoidal":
            x = x + sinusoidal(len(tokens), c.hidden_size, x.dtype)
        return x

    def block(self, w, part, x):
        """One residual block."""
        c = self.config

        def normed(x):
            return norm.norm(part.norm, w, "norm", x, part.norm_eps)

        if c.norm_position == "pre":
            return x + part.residual_scale * part.layer.forward(w, normed(x), c.norm_eps)
        assert c.norm_position == "post", c.norm_position
        return normed(x + part.residual_scale * part.layer.forward(w, x, c.norm_eps))

    def head(self, w, x):
        """The logits before the soft cap."""
        table = "model.embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        return norm.norm(self.config.norm, w, "model.norm", x, self.config.norm_eps) @ self.tensors[table].T

    def forward(self, tokens, gaps=None, capped=True):
        """The logits of a list of tokens `[T, vocab]`. `gaps` gets how far each choice is from another one."""
        w = Weights(self.tensors, "", gaps)
        with torch.no_grad():
            x = self.embed(tokens)
            for i, layer in enumerate(self.config.layers()):
                for j, part in enumerate(layer):
                    x = self.block(w.below(f"model.layers.{i}.{j}"), part, x)
            logits = self.head(w, x)
        cap = self.config.logit_soft_cap
        return cap * torch.tanh(logits / cap) if cap and capped else logits
