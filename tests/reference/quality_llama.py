"""Measures llama.cpp's quantized forms of the demo hybrid like quality.py measures Kinglet's.

    python quality_llama.py --llama LLAMA_CPP --work WORK --texts TEXTS --kinglet ../../target/release/kinglet

LLAMA_CPP is llama.cpp's source (its converter and gguf-py are used). `llama_cpp` (0.3.36), torch, transformers and numpy must be importable; if they
are in two environments, name those with --llama-python and --torch-python. Two rows are written to WORK for each type:

  llama.cpp TYPE            its decoded weights, run by Kinglet in f32: only the error of the weights
  llama.cpp TYPE, as run    llama.cpp's own logits against its own bf16 logits, on the same tokens and windows: int8 activations

Bits per weight are those of all tensors of the file; rows of 128 weights, and the embedding, have other types than the name says.
The KL of the second row is computed from logits with numpy in f64, with the formula of `kinglet eval`.
"""

import argparse
import ctypes
import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/demo/hybrid"
TYPES = {"Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q4_0": 2, "Q3_K_M": 12, "Q2_K": 10}


def convert(args) -> None:
    """Converts the model to bf16 with llama.cpp's converter. It doesn't know our tokenizer, which follows the same rule as refact's."""
    sys.path[:0] = [str(args.llama), str(args.llama / "gguf-py")]
    import conversion.base as base
    import convert_hf_to_gguf

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "refact"
    sys.argv = ["convert", str(MODEL), "--outtype", "bf16", "--outfile", str(args.work / "hybrid-bf16.gguf")]
    convert_hf_to_gguf.main()


def size(path: Path) -> dict:
    """Bytes and bits per weight of all tensors of a file."""
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    weights, count = sum(int(t.n_elements) for t in tensors), sum(int(t.n_bytes) for t in tensors)
    return {"bytes": count, "bits_per_weight": 8 * count / weights}


def quantize(args) -> None:
    import llama_cpp

    llama_cpp.llama_backend_init()
    for name, kind in TYPES.items():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = kind
        source, out = args.work / "hybrid-bf16.gguf", args.work / f"hybrid-{name}.gguf"
        status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
        if status != 0:
            raise SystemExit(f"{name}: llama_model_quantize gives {status}")


def decode(args, name: str, out: Path) -> None:
    """Writes the weights of a file, decoded to f32, as a checkpoint."""
    sys.path.insert(0, str(args.llama / "gguf-py"))
    import gguf
    import torch
    from gguf.quants import dequantize
    from safetensors.torch import load_file, save_file

    shapes = {key: value.shape for key, value in load_file(MODEL / "model.safetensors").items()}
    reader = gguf.GGUFReader(args.work / f"hybrid-{name}.gguf")
    found = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).float() for t in reader.tensors}
    made = {"model.embed_tokens.weight": found["token_embd.weight"], "model.norm.weight": found["output_norm.weight"]}
    for layer in range(10):
        old, new = f"blk.{layer}.", f"model.layers.{layer}."
        fused = {
            "block_sparse_moe.input_linear": torch.cat([found[f"{old}ffn_{p}_exps.weight"] for p in ("gate", "up")], 1),
            "shared_mlp.input_linear": torch.cat([found[f"{old}ffn_{p}_shexp.weight"] for p in ("gate", "up")], 0),
        }
        made |= {f"{new}{key}.weight": value for key, value in fused.items()}
        plain = {
            "attn_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate_inp": "block_sparse_moe.router.layer",
            "ffn_down_exps": "block_sparse_moe.output_linear",
            "ffn_down_shexp": "shared_mlp.output_linear",
            "ssm_in": "mamba.in_proj",
            "ssm_out": "mamba.out_proj",
            "ssm_conv1d": "mamba.conv1d",
            "ssm_norm": "mamba.norm",
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
        }
        made |= {f"{new}{b}.weight": found[f"{old}{a}.weight"] for a, b in plain.items() if f"{old}{a}.weight" in found}
        if f"{old}ssm_d" in found:
            made[f"{new}mamba.D"] = found[f"{old}ssm_d"]
            made[f"{new}mamba.A_log"] = torch.log(-found[f"{old}ssm_a"])
            made[f"{new}mamba.conv1d.bias"] = found[f"{old}ssm_conv1d.bias"]
            made[f"{new}mamba.dt_bias"] = found[f"{old}ssm_dt.bias"]
    if set(made) != set(shapes):
        raise SystemExit(f"tensors don't match: {sorted(set(made) ^ set(shapes))[:5]}")
    out.mkdir(exist_ok=True)
    for path in MODEL.iterdir():
        if path.name != "model.safetensors":
            (out / path.name).write_bytes(path.read_bytes())
    save_file({key: value.reshape(shapes[key]).contiguous() for key, value in made.items()}, out / "model.safetensors")


def weights_alone(args) -> None:
    out = args.work / "decoded"
    for name in TYPES:
        decode(args, name, out)
        command = [args.kinglet, "eval", "--model", out, "--reference", MODEL, "--text", args.texts / "evaluation.txt"]
        command += ["--context", "512", "--limit", str(args.limit), "--json"]
        result = json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
        sizes = size(args.work / f"hybrid-{name}.gguf")
        (args.work / f"llama.cpp {name}.json").write_text(json.dumps(result | sizes))
        print(name, sizes["bits_per_weight"], result["reference"]["kl_mean"], flush=True)


class Engine:
    """Runs one file in llama.cpp."""

    def __init__(self, path: Path):
        import llama_cpp

        self.lib = llama_cpp
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def logits(self, tokens: list[int]):
        """The logits after each token of a window, starting from an empty state."""
        import numpy as np

        lib, batch = self.lib, self.batch
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
            batch.seq_id[i][0] = 0
        if lib.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        data = lib.llama_get_logits(self.context)
        return np.ctypeslib.as_array(data, shape=(len(tokens), self.vocab)).astype(np.float64)


def log_softmax(logits):
    import numpy as np

    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def as_run(args) -> None:
    import numpy as np

    command = [args.kinglet, "tokenize", "--model", MODEL, "--file", args.texts / "evaluation.txt", "--no-special"]
    ids = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    ids = [int(i) for i in ids.split(",")][: args.limit]
    windows = [ids[i : i + 512] for i in range(0, len(ids) - 511, 512)]
    reference = Engine(args.work / "hybrid-bf16.gguf")
    engines = {name: Engine(args.work / f"hybrid-{name}.gguf") for name in TYPES}
    divergence = {name: [] for name in TYPES}
    same, loss, reference_loss = {n: [] for n in TYPES}, {n: [] for n in TYPES}, []
    for window in windows:
        # Only the last 255 predictions of a window count.
        counted, following = slice(256, 511), np.array(window[257:])
        r = log_softmax(reference.logits(window)[counted])
        reference_loss += list(-r[np.arange(255), following])
        for name, engine in engines.items():
            m = log_softmax(engine.logits(window)[counted])
            divergence[name] += list((np.exp(r) * (r - m)).sum(-1).clip(0))
            same[name] += list(r.argmax(-1) == m.argmax(-1))
            loss[name] += list(-m[np.arange(255), following])
    for name in TYPES:
        k = np.array(divergence[name])
        result = {
            "predictions": len(k),
            "perplexity": math.exp(np.mean(loss[name])),
            "reference": {
                "perplexity": math.exp(np.mean(reference_loss)),
                "kl_mean": float(k.mean()),
                "kl_99": float(np.quantile(k, 0.99)),
                "same_top": float(np.mean(same[name])),
            },
        } | size(args.work / f"hybrid-{name}.gguf")
        (args.work / f"llama.cpp {name}, as run.json").write_text(json.dumps(result))
        print(name, "as run", result["reference"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("llama", "work", "texts", "kinglet"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=24576)
    parser.add_argument("--llama-python", type=Path, default=sys.executable, help="Python with llama_cpp, gguf and numpy")
    parser.add_argument("--torch-python", type=Path, default=sys.executable, help="Python with torch and transformers")
    parser.add_argument("--step", help="run only this step, in this process")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    steps = {"convert": convert, "quantize": quantize, "weights_alone": weights_alone, "as_run": as_run}
    if args.step:
        return steps[args.step](args)
    for step in steps:
        python = args.torch_python if step in ("convert", "weights_alone") else args.llama_python
        subprocess.run([python, __file__, *sys.argv[1:], "--step", step], check=True)


if __name__ == "__main__":
    main()
