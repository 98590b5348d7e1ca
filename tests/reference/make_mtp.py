"""Makes the cases of heads that predict the token after the next one (multi-token prediction).

    python make_mtp.py            # all missing cases
    python make_mtp.py --force
    python make_mtp.py --check    # recompute the logits of existing cases and compare

`transformers` ignores the tensors `mtp.*`, so the equation is written here around its decoder layer (where it comes from is
told in models/src/prediction.rs). A case is the head of a case of `make.py`, without the model: `fixtures/mtp/FAMILY-CASE/` has
`mtp.safetensors`, and `reference.safetensors` with

- `tokens` i64 [T]: a prompt and the model's greedy continuation;
- `logits` f32 [T - 1, vocab]: the head's after each pair, of the model's output at a token and the token after it;
- `drafts` i64 [DRAFTS]: what the head expects after all tokens, each draft from its own output before.

Random weights would never be right. The head is trained on the tokens of its case until it is right about most of them.
"""

import argparse
import copy
import sys
from pathlib import Path

import make  # noqa: F401, I001  sets the environment of transformers
import torch
import transformers
from safetensors.torch import load_file, save_file

from f64 import rel_l2
from weights import _draw

FIXTURES = make.FIXTURES / "mtp"
CASES = ["qwen3_5_text/odd", "qwen3_next/plain"]
LENGTH = 64
DRAFTS = 4
STEPS = 400
MIN_GAP = 5e-3
MIN_DRAFT_GAP = 0.1
MAX_SEEDS = 20


class Head(torch.nn.Module):
    """The head of `model`, with the names of a checkpoint below `mtp.`."""

    def __init__(self, model):
        super().__init__()
        config = copy.deepcopy(model.config)
        config.num_hidden_layers, config.layer_types = 1, ["full_attention"]
        base = model.base_model
        hidden, norm = config.hidden_size, type(base.norm)
        self.fc = torch.nn.Linear(2 * hidden, hidden, bias=False)
        self.pre_fc_norm_embedding = norm(hidden, eps=config.rms_norm_eps)
        self.pre_fc_norm_hidden = norm(hidden, eps=config.rms_norm_eps)
        self.layers = torch.nn.ModuleList([type(base.layers[0])(config, 0)])
        self.norm = norm(hidden, eps=config.rms_norm_eps)

    def forward(self, model, embeddings, outputs):
        """The normed output after each pair [T, hidden], from normed outputs of the model and the embeddings of the tokens after."""
        x = torch.cat([self.pre_fc_norm_embedding(embeddings), self.pre_fc_norm_hidden(outputs)], dim=-1)
        x = self.fc(x)[None]
        length = x.shape[1]
        positions = torch.arange(length)[None]
        mask = torch.full((length, length), torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)[None, None]
        rotation = model.base_model.rotary_emb(x, positions)
        x = self.layers[0](x, position_embeddings=rotation, attention_mask=mask, position_ids=positions)
        return self.norm(x[0])


def randomize(head, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(head.named_parameters()):
            value = _draw(name, tuple(parameter.shape), g)
            parameter.copy_(value - 1.0 if "norm" in name else value)


def embed(model, tokens):
    return model.get_input_embeddings()(torch.tensor(tokens))


def outputs_of(model, tokens):
    with torch.no_grad():
        return model.base_model(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0]


def continuation(model, prompt):
    """The prompt with its greedy continuation, up to the first token that rounding could decide."""
    tokens = list(prompt)
    while len(tokens) < LENGTH:
        top = make.forward(model, tokens)[-1].topk(2)
        if float(top.values[0] - top.values[1]) < MIN_GAP:
            break
        tokens.append(int(top.indices[0]))
    return tokens


def logits_of(model, head, tokens, outputs):
    return model.get_output_embeddings()(head(model, embed(model, tokens[1:]), outputs[:-1]))


def train(model, head, tokens, outputs):
    """Trains the head to expect what follows in `tokens`."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    expected = torch.tensor(tokens[2:])
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(logits_of(model, head, tokens, outputs)[:-1], expected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def drafts_of(model, head, tokens, outputs):
    """What the head expects after `tokens`, and the smallest gap between its first two choices."""
    embeddings, outputs = embed(model, tokens[1:]), outputs[:-1]
    drafts, gap = [], float("inf")
    for _ in range(DRAFTS):
        states = head(model, embeddings, outputs)
        top = model.get_output_embeddings()(states[-1]).topk(2)
        gap = min(gap, float(top.values[0] - top.values[1]))
        drafts.append(int(top.indices[0]))
        # The head's own output takes the place of the model's.
        outputs = torch.cat([outputs, states[-1:]])
        embeddings = torch.cat([embeddings, embed(model, drafts[-1:])])
    return drafts, gap


def make_case(path):
    base = make.FIXTURES / path
    model = make.load(base)
    prompt = load_file(base / "reference.safetensors")["tokens"][:make.PROMPT].tolist()
    tokens = continuation(model, prompt)
    assert len(tokens) > make.PROMPT + 20, f"{path}: only {len(tokens)} tokens"
    outputs = outputs_of(model, tokens)
    for seed in range(MAX_SEEDS):
        head = Head(model)
        randomize(head, seed)
        train(model, head, tokens, outputs)
        with torch.no_grad():
            logits = logits_of(model, head, tokens, outputs)
            drafts, gap = drafts_of(model, head, tokens, outputs)
        if gap >= MIN_DRAFT_GAP:
            break
    else:
        raise AssertionError(f"{path}: no usable seed")
    right = (logits[make.PROMPT - 1:-1].argmax(-1) == torch.tensor(tokens[make.PROMPT + 1:])).float().mean()
    target = FIXTURES / path.replace("/", "-")
    target.mkdir(parents=True, exist_ok=True)
    state = {}
    for name, tensor in head.state_dict().items():
        for stored, value in split_experts(name, tensor):
            state[f"mtp.{stored}"] = value.contiguous()
    save_file(state, target / "mtp.safetensors", metadata={"format": "pt"})
    save_file(
        {"tokens": torch.tensor(tokens), "logits": logits.contiguous(), "drafts": torch.tensor(drafts)},
        target / "reference.safetensors",
        metadata={"case": path, "seed": str(seed), "prompt_length": str(make.PROMPT), "right": f"{float(right):.3f}",
                  "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
    )
    for file in target.iterdir():
        file.chmod(0o644)
        make.sort_header(file)
    size = sum(f.stat().st_size for f in target.iterdir()) // 1024
    print(f"{path}: seed {seed}, {len(tokens)} tokens, right {float(right):.2f}, drafts {drafts}, {size} KiB", flush=True)


def split_experts(name, tensor):
    """The tensors of a checkpoint: experts by themselves, as the hub has them."""
    if name.endswith("experts.gate_up_proj"):
        for expert, value in enumerate(tensor):
            gate, up = value.chunk(2)
            path = name.removesuffix("gate_up_proj") + str(expert)
            yield f"{path}.gate_proj.weight", gate
            yield f"{path}.up_proj.weight", up
    elif name.endswith("experts.down_proj"):
        for expert, value in enumerate(tensor):
            yield name.removesuffix("down_proj") + f"{expert}.down_proj.weight", value
    else:
        yield name, tensor


def joined_experts(stored):
    """The other way round."""
    state, experts = {}, {}
    for name, tensor in stored.items():
        name = name.removeprefix("mtp.")
        if ".experts." in name:
            path, rest = name.split(".experts.")
            expert, kind, _ = rest.split(".")
            experts.setdefault(path, {}).setdefault(int(expert), {})[kind] = tensor
        else:
            state[name] = tensor
    for path, all_experts in experts.items():
        each = [all_experts[index] for index in sorted(all_experts)]
        state[f"{path}.experts.gate_up_proj"] = torch.stack([torch.cat([e["gate_proj"], e["up_proj"]]) for e in each])
        state[f"{path}.experts.down_proj"] = torch.stack([e["down_proj"] for e in each])
    return state


def check(path):
    folder = FIXTURES / path.replace("/", "-")
    reference = load_file(folder / "reference.safetensors")
    model = make.load(make.FIXTURES / path)
    head = Head(model)
    head.load_state_dict(joined_experts(load_file(folder / "mtp.safetensors")))
    tokens = reference["tokens"].tolist()
    with torch.no_grad():
        outputs = outputs_of(model, tokens)
        error = rel_l2(logits_of(model, head, tokens, outputs), reference["logits"])
        drafts, _ = drafts_of(model, head, tokens, outputs)
    print(f"{path}: {error:.1e}")
    return error <= 1e-6 and drafts == reference["drafts"].tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    make.assert_plain_paths()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    failed = []
    for path in CASES:
        done = (FIXTURES / path.replace("/", "-") / "reference.safetensors").exists()
        if options.check:
            failed += [] if check(path) else [path]
        elif options.force or not done:
            make_case(path)
    if failed:
        sys.exit(f"failed: {failed}")


if __name__ == "__main__":
    main()
