"""Makes random checkpoints whose rows are whole groups, for check_interop.py: at least one of every family.

    python interop_models.py OUT

They avoid features that mlx-lm is known to compute differently from `transformers` (groups in Mamba-2's gated norm, sliding windows,
OLMoE's clip_qkv), so that logits can be compared. Each folder gets `tokens.json`.
"""

import json
import sys
from pathlib import Path

import torch

from cases import Case, all_cases, variant
from make import build, save
from make_quantized import as_published, dense_names

_WIDE = dict(vocab_size=320, hidden_size=128, intermediate_size=192, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256)
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=64)
_YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64, beta_fast=32.0,
             beta_slow=1.0)
_MOE = dict(num_experts_per_tok=2, sliding_window=None)
_MAMBA = dict(vocab_size=320, hidden_size=128, state_size=16, time_step_rank=64)
_MAMBA2 = dict(vocab_size=320, hidden_size=128, num_heads=4, head_dim=64, state_size=64, n_groups=1)
# Convolutions of queries, keys and values are equally wide: transformers saves them in equal parts.
_DELTA = dict(linear_conv_kernel_dim=4, linear_key_head_dim=32, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4)
_LFM2 = dict(vocab_size=320, hidden_size=128, intermediate_size=192, num_attention_heads=4, num_key_value_heads=2)
_KIMI = dict(
    vocab_size=320, hidden_size=128, intermediate_size=192, moe_intermediate_size=128, num_attention_heads=2, num_key_value_heads=2,
    kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=64, v_head_dim=64, linear_head_dim=64, linear_num_heads=2)
_NEMOTRON = dict(
    vocab_size=320, hidden_size=128, intermediate_size=192, ssm_state_size=64, mamba_num_heads=4, mamba_head_dim=32, n_groups=1,
    head_dim=32, moe_intermediate_size=128, moe_shared_expert_intermediate_size=128, n_routed_experts=4, num_experts_per_tok=2)
# A token takes every expert: mlx-lm divides the weights of the chosen ones by their sum.
_JAMBA = {**_WIDE, "num_experts": 2, "num_experts_per_tok": 2, "mamba_d_state": 16, "mamba_dt_rank": 64}
_ZAMBA = dict(
    vocab_size=320, hidden_size=128, intermediate_size=192, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=3,
    layers_block_type=["linear_attention", "hybrid", "hybrid"], mamba_d_state=16)
_GRANITE_H = dict(**_WIDE, shared_intermediate_size=128, mamba_n_heads=4, mamba_d_head=64, mamba_d_state=64)


def cases():
    plain = {}
    for case in all_cases():
        plain.setdefault(case.family, case)

    def wide(family, name, config, **changes) -> Case:
        return variant(plain[family], name, config=config, length=48, **changes)

    bf16 = dict(dtype="bfloat16")
    return [
        wide("llama", "f32", {**_WIDE}),
        wide("llama", "bf16", {**_WIDE, "tie_word_embeddings": True}, **bf16),
        wide("llama", "llama3", {**_WIDE, "rope_parameters": _LLAMA3}, **bf16),
        wide("llama", "f16_sharded", {**_WIDE, "attention_bias": True, "mlp_bias": True}, dtype="float16", shard="100KB"),
        wide("mistral", "bf16", {**_WIDE, "sliding_window": None}, **bf16),
        wide("qwen2", "bf16", {**_WIDE, "rope_parameters": {**_ROPE, "rope_theta": 1000000.0}}, **bf16),
        wide("qwen3", "bf16", {**_WIDE, "head_dim": 64}, **bf16),
        wide("granite", "bf16", {**_WIDE}, **bf16),
        wide("granite", "untied", {**_WIDE, "tie_word_embeddings": False, "attention_bias": True}, **bf16),
        wide("mixtral", "bf16", {**_WIDE, **_MOE, "num_local_experts": 4}, **bf16),
        wide("olmoe", "bf16", {**_WIDE, **_MOE, "num_key_value_heads": 4, "num_experts": 6, "clip_qkv": None}, **bf16),
        wide("qwen3_moe", "bf16", {**_WIDE, **_MOE, "head_dim": 64, "moe_intermediate_size": 128, "num_experts": 6},
             **bf16),
        wide("qwen3_moe", "mixed_layers",
             {**_WIDE, **_MOE, "head_dim": 64, "moe_intermediate_size": 128, "num_experts": 4, "decoder_sparse_step": 2,
              "mlp_only_layers": [3], "num_hidden_layers": 4}, **bf16),
        wide("mamba", "bf16", {**_MAMBA}, **bf16),
        wide("mamba", "ragged", {**_MAMBA, "time_step_rank": 8, "use_bias": True}),
        wide("falcon_mamba", "bf16", {**_MAMBA}, **bf16),
        wide("mamba2", "bf16", {**_MAMBA2}, **bf16),
        wide("mamba2", "untied", {**_MAMBA2, "tie_word_embeddings": False, "use_bias": True}),
        wide("granitemoehybrid", "moe", {**_GRANITE_H, "num_local_experts": 4, "num_experts_per_tok": 2}, **bf16),
        wide("granitemoehybrid", "dense",
             {**_GRANITE_H, "num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "rope",
              "rope_parameters": _ROPE, "tie_word_embeddings": False}, **bf16),
        wide("granitemoe", "bf16", {**_WIDE, "num_local_experts": 4, "num_experts_per_tok": 2}, **bf16),
        wide("lfm2", "bf16", {**_LFM2, "block_multiple_of": 64}, **bf16),
        wide("lfm2_moe", "bf16", {**_LFM2, "moe_intermediate_size": 128, "num_experts": 4}, **bf16),
        wide("olmo_hybrid", "bf16", {**_WIDE, **_DELTA}, **bf16),
        wide("kimi_linear", "bf16", {**_KIMI}, **bf16),
        wide("kimi_linear", "low_rank", {**_KIMI, "q_lora_rank": 64, "tie_word_embeddings": True}),
        wide("jamba", "bf16", {**_JAMBA}, **bf16),
        wide("nemotron_h", "bf16", {**_NEMOTRON}, **bf16),
        wide("nemotron_h", "moe", {**_NEMOTRON, "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]}, **bf16),
        wide("granitemoeshared", "bf16", {**_WIDE, "num_local_experts": 4, "shared_intermediate_size": 128}, **bf16),
        wide("lfm3", "bf16", {**_WIDE, "head_dim": 32}, **bf16),
        wide("zamba", "bf16", {**_ZAMBA, "mamba_dt_rank": 64}, **bf16),
        wide("zamba2", "bf16", {**_ZAMBA, "n_mamba_heads": 4, "mamba_ngroups": 1, "adapter_rank": 64, "num_mem_blocks": 1}, **bf16),
        wide("xlstm", "bf16", dict(vocab_size=320, hidden_size=128, num_heads=2), **bf16),
        wide("bamba", "bf16",
             {**_WIDE, "mamba_n_heads": 4, "mamba_d_head": 64, "mamba_d_state": 64}, **bf16),
    ]


def main():
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    for case in cases():
        folder = out / f"{case.family}-{case.name}"
        if (folder / "tokens.json").exists():
            continue
        model, tokens = build(case, case.seed)
        save(case, model, folder)
        # The names that mlx-lm reads.
        if case.family == "olmo_hybrid":
            as_published(folder / "model.safetensors", case.config)
        if case.family == "kimi_linear":
            dense_names(folder / "model.safetensors")
        (folder / "tokens.json").write_text(json.dumps(tokens))
        print(folder.name, flush=True)


if __name__ == "__main__":
    main()
