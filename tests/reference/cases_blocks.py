"""Cases of `kinglet_hybrid`: every part with all its fields, and the fields of the model. The reference is `blocks/`."""

import copy

from cases import Case

TINY = dict(model_type="kinglet_hybrid", vocab_size=40, hidden_size=32)


def case(name, kinds, pattern=None, layers=None, ablations=None, length=72, seed=0, gains=None, note="", dtype="bfloat16", **config):
    """A case whose layers are `kinds`, each once if no pattern is given."""
    pattern = pattern or list(kinds)
    values = {**TINY, "dtype": dtype, "num_hidden_layers": layers or len(pattern), "kinds": kinds, "pattern": pattern, **config}
    return Case("kinglet_hybrid", name, values, length=length, seed=seed, ablations=ablations or {}, dtype=dtype, gains=gains or {}, note=note)


def top(**fields):
    """An ablation: changes fields of the model."""
    return lambda config, tensors: config.update(fields)


def part(kind, place, **fields):
    """An ablation: changes fields of a part."""
    return lambda config, tensors: config["kinds"][kind][place].update(fields)


def zero(*fragments):
    """An ablation: zeroes every tensor whose name contains one of the fragments."""
    def change(config, tensors):
        hit = [t.zero_() for name, t in tensors.items() if any(f in name for f in fragments)]
        assert hit, f"no tensor is called {fragments}"
    return change


def without(fragment, kind, place, **fields):
    """An ablation: changes fields of a part that then lacks the tensors with this fragment in their names."""
    def change(config, tensors):
        config["kinds"][kind][place].update(fields)
        for name in [name for name in tensors if fragment in name]:
            del tensors[name]
    return change


def changed(config, tensors, ablation):
    """A config and its tensors after an ablation."""
    config, tensors = copy.deepcopy(config), {name: t.clone() for name, t in tensors.items()}
    ablation(config, tensors)
    return config, tensors


def attention(**fields):
    return {"type": "attention", "num_heads": 4, "head_dim": 8, **fields}


def mlp(width=24, **fields):
    return {"type": "mlp", "intermediate_size": width, **fields}


def mamba2(**fields):
    return {"type": "mamba2", "state_size": 8, "num_heads": 6, "head_dim": 6, **fields}


def moe(**fields):
    return {"type": "moe", "num_experts": 6, "top_k": 2, "intermediate_size": 8, **fields}


# The thresholds are so low that 72 tokens cross all of them; the width of a level covers fewer blocks than there are.
TIERS = dict(window=6, full_until=10, dilated_until=10, linear_until=10, levels=2, global_first=2, global_top=5,
             hierarchy_block=3, hierarchy_levels=2, hierarchy_width=3)
FOREVER = 100000


def hybrid(**fields):
    return {"type": "hybrid_attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, **TIERS, **fields}


CASES = [
    case(
        "attention",
        {"a": [attention(num_kv_heads=2, rope_theta=500.0, qk_norm=True), mlp()],
         "b": [attention(num_heads=3, window=13, bias=True), mlp(gated=False, activation="relu2", bias=True)]},
        ablations={
            "rope_theta": part("a", 0, rope_theta=5000.0), "no rotation": part("a", 0, rope_theta=None),
            "qk_norm": without("_norm", "a", 0, qk_norm=False), "window": part("b", 0, window=0), "bias": zero(".1.0.q.bias", ".1.0.v.bias"),
            "mlp bias": zero("up.bias"), "activation": part("b", 1, activation="relu"),
        },
        embedding_scale=2.5, eos_token_id=3,
    ),
    case(
        "activations",
        {"a": [attention(num_kv_heads=1, rope_theta=10000.0), mlp(activation="gelu", bias=True), mlp(gated=False)],
         "b": [mlp(activation="gelu_tanh", gated=False), mlp(20, activation="relu"), mlp(activation="relu2")]},
        ablations={
            "gelu": part("a", 1, activation="silu"), "silu": part("a", 2, activation="relu"), "gelu_tanh": part("b", 0, activation="silu"),
            "relu": part("b", 1, activation="silu"), "relu2": part("b", 2, activation="relu"), "cap": top(logit_soft_cap=None),
            "residual_scale": top(residual_scale=1.0), "embedding_scale": top(embedding_scale=1.0),
        },
        tie_word_embeddings=False, logit_soft_cap=6.0, residual_scale=0.4, embedding_scale=0.7, norm_eps=1e-6,
    ),
    case(
        "mamba",
        {"m": [{"type": "mamba", "state_size": 8}],
         "n": [{"type": "mamba", "state_size": 5, "conv_kernel": 3, "expand": 1, "dt_rank": 3, "conv_bias": False, "bias": True}]},
        ["m", "n"], ablations={"bias": zero("in_proj.bias"), "conv bias": zero("0.0.conv1d.bias"), "D": zero(".D")},
    ),
    case(
        "mamba2",
        {"m": [mamba2(n_groups=3, time_step_limit=[0.02, 0.3])],
         "n": [mamba2(gate="silu", bias=True, conv_bias=False, conv_kernel=2), mlp()]},
        ["m", "n"],
        ablations={"limit": part("m", 0, time_step_limit=None), "norm": without("gate_norm", "m", 0, gate="silu"), "bias": zero("in_proj.bias"), "D": zero(".D")},
    ),
    case(
        "moe",
        {"a": [attention(rope_theta=10000.0), moe(num_experts=8, top_k=3, groups=4, top_groups=2, temperature=0.6, activation="gelu")],
         "e": [moe(latent_size=16, shared_intermediate_size=12, groups=3, top_groups=1)]},
        ablations={
            "groups": part("a", 1, groups=1, top_groups=1), "top_groups": part("e", 0, top_groups=2), "temperature": part("a", 1, temperature=1),
            "top_k": part("a", 1, top_k=2), "activation": part("a", 1, activation="relu"), "shared": zero("shared.down"), "latent": zero("latent_out"),
        },
    ),
    case(
        "expert_norm",
        {"a": [attention(num_heads=2), moe(num_experts=5, expert_norm=True, activation="gelu_tanh")],
         "e": [moe(latent_size=16, expert_norm=True, shared_intermediate_size=8, temperature=1.5)]},
        ablations={"norm": without("0.1.experts.norm", "a", 1, expert_norm=False), "latent norm": without("1.0.experts.norm", "e", 0, expert_norm=False),
                   "norm_eps": top(norm_eps=1.0)},
        tie_word_embeddings=False,
    ),
    case(
        "layer_norm",
        {"a": [attention(qk_norm=True, norm_eps=0.5), mlp(norm="rms", residual_scale=0.3)], "m": [mamba2(num_heads=2), mlp(bias=True)],
         "e": [moe(latent_size=16)]},
        ablations={"bias": zero("0.0.norm.bias"), "eps": part("a", 0, norm_eps=1e-5), "scale": part("a", 1, residual_scale=1.0),
                   "final": zero("model.norm.bias"), "moe": zero("2.0.norm.bias")},
        norm="layer",
    ),
    case(
        "post_norm",
        {"a": [attention(rope_theta=10000.0, residual_scale=2.0), mlp(norm_eps=0.3)], "m": [{"type": "mamba", "state_size": 4, "expand": 1}], "e": [moe(num_experts=4, shared_intermediate_size=8)]},
        ["a", "m", "e"], ablations={"pre": top(norm_position="pre"), "scale": part("a", 0, residual_scale=1.0), "eps": part("a", 1, norm_eps=1e-5)},
        norm_position="post", residual_scale=0.8,
    ),
    case(
        "post_layer_norm",
        {"a": [attention(), mlp(gated=False, activation="gelu")], "b": [attention(norm="rms"), mlp(norm="rms", activation="relu")]},
        ablations={"bias": zero("0.1.norm.bias"), "attention bias": zero("0.0.norm.bias"), "pre": top(norm_position="pre")},
        norm_position="post", norm="layer", tie_word_embeddings=False, positions="sinusoidal",
    ),
    case(
        "learned",
        {"a": [attention(), mlp()]}, layers=2, ablations={"positions": zero("embed_positions"), "scale": top(embedding_scale=1.0)},
        positions="learned", max_position_embeddings=96, embedding_scale=1.5,
    ),
    case(
        "sinusoidal",
        {"a": [attention(), mlp()]}, layers=2, ablations={"positions": top(positions="none"), "scale": top(embedding_scale=1.0)},
        positions="sinusoidal", embedding_scale=0.5, length=96,
    ),
    case(
        "plain",
        {"m": [mamba2(num_heads=2)], "a": [attention(num_heads=2, num_kv_heads=1), mlp(16)], "e": [moe(num_experts=4)]},
        ["m", "a", "e"], layers=5, ablations={"conv": zero("0.0.conv1d.weight")}, dtype="float32",
        architectures=["KingletHybridForCausalLM"], transformers_version="5.24.0", bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0,
    ),
    case(
        "linear_attention",
        {"a": [{"type": "linear_attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "qk_norm": True, "rope_theta": 100.0}, mlp()],
         "b": [{"type": "linear_attention", "num_heads": 3, "head_dim": 8, "bias": True}]},
        ablations={"rope_theta": part("a", 0, rope_theta=None), "qk_norm": without("_norm", "a", 0, qk_norm=False), "bias": zero("k.bias")},
    ),
    case(
        "hybrid_dilated",
        {"a": [hybrid(dilated_until=FOREVER, linear_until=FOREVER), mlp()],
         "b": [hybrid(num_heads=3, num_kv_heads=1, dilated_until=FOREVER, linear_until=FOREVER, levels=3, window=5, rope_theta=100.0)]},
        ablations={
            "window": part("a", 0, window=7), "full_until": part("a", 0, full_until=40), "levels": part("a", 0, levels=1),
            "global_first": part("a", 0, global_first=0), "global_top": part("a", 0, global_top=4), "context": without("0.0.context", "a", 0, context=False),
            "rope_theta": part("b", 0, rope_theta=None),
        },
    ),
    case(
        "hybrid_linear",
        {"a": [hybrid(linear_until=FOREVER, dilated_until=30), mlp()],
         "b": [hybrid(linear_until=FOREVER, num_heads=6, num_kv_heads=3, qk_norm=True, rope_theta=1000.0, context=False)]},
        ablations={
            "dilated_until": part("a", 0, dilated_until=60), "gate": zero("linear_gate"), "global_top": part("a", 0, global_top=3), "window": part("b", 0, window=4),
            "qk_norm": without("_norm", "b", 0, qk_norm=False), "global_first": part("b", 0, global_first=5),
        },
        gains={"linear_gate": 4.0},
    ),
    case(
        "hybrid_hierarchy",
        {"a": [hybrid(), mlp()], "b": [hybrid(linear_until=40, dilated_until=20, hierarchy_block=2, hierarchy_levels=4, hierarchy_width=2, bias=True)]},
        ablations={
            "block": part("a", 0, hierarchy_block=4), "levels": part("a", 0, hierarchy_levels=1), "width": part("a", 0, hierarchy_width=2),
            "linear_until": part("b", 0, linear_until=70), "context": without("0.0.context", "a", 0, context=False), "bias": zero("k.bias"),
        },
        length=96, gains={"linear_gate": 4.0},
    ),
    case(
        "hybrid_tiers",
        {"a": [hybrid(dilated_until=25, linear_until=50, rope_theta=10000.0), mlp()]}, layers=2,
        ablations={"full_until": part("a", 0, full_until=20), "dilated_until": part("a", 0, dilated_until=40), "linear_until": part("a", 0, linear_until=60)},
        length=96, gains={"linear_gate": 4.0},
    ),
    case(
        "hybrid_defaults",
        {"a": [{"type": "hybrid_attention", "num_heads": 4, "head_dim": 8}]}, layers=2, ablations={"context": zero("context")},
        note="all tokens stay in the first tier, where only the context scores differ from attention",
    ),
    case(
        "multi_level",
        {"a": [{"type": "multi_level_attention", "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "windows": [5, 12, 0], "rope_theta": 100.0}, mlp()],
         "b": [{"type": "multi_level_attention", "num_heads": 3, "head_dim": 8, "levels": 4, "bias": True, "qk_norm": True}]},
        ablations={"windows": part("a", 0, windows=[5, 14, 0]), "none": part("a", 0, windows=None), "mix": zero("level_logits"), "bias": zero("q.bias"),
                   "qk_norm": without("_norm", "b", 0, qk_norm=False)},
        gains={"level_logits": 2.0},
    ),
    case(
        "mlstm",
        {"x": [{"type": "mlstm", "num_heads": 4, "qk_head_dim": 6, "proj_factor": 1, "conv_kernel": 4, "head_norm": True}],
         "y": [{"type": "mlstm", "num_heads": 2, "qk_head_dim": 8, "proj_factor": 1}]},
        ablations={"conv": zero("conv1d.bias"), "igate": zero("igate.bias"), "fgate": zero("1.0.fgate.bias"), "ogate": zero("ogate.bias"),
                   "forget_gate": part("y", 0, forget_gate="exp")},
    ),
    case(
        "mlstm_exp",
        {"x": [{"type": "mlstm", "num_heads": 4, "qk_head_dim": 8, "proj_factor": 1.5, "forget_gate": "exp", "conv_kernel": 3, "head_norm": True}, mlp()]},
        ablations={"forget_gate": part("x", 0, forget_gate="sigmoid"), "head_norm": without("head_norm", "x", 0, head_norm=False)},
        tie_word_embeddings=False,
    ),
    case(
        "slstm",
        {"s": [{"type": "slstm", "num_heads": 4}], "t": [{"type": "slstm", "num_heads": 3, "proj_factor": 1.5, "forget_gate": "exp", "memory_mixing": False}]},
        ablations={"forget_gate": part("s", 0, forget_gate="exp"), "recurrent": zero("recurrent"), "norm": zero("1.0.cell_norm"), "gates": zero("1.0.gates.bias"),
                   "exp": part("t", 0, forget_gate="sigmoid")},
    ),
    case(
        "slstm_sigmoid",
        {"s": [{"type": "slstm", "num_heads": 2, "gating": "sigmoid", "proj_factor": 1.25}], "t": [{"type": "slstm", "num_heads": 4, "gating": "sigmoid", "memory_mixing": False}]},
        ablations={"gating": part("s", 0, gating="exp"), "recurrent": zero("recurrent"), "other": part("t", 0, gating="exp")},
        tie_word_embeddings=False,
    ),
]

# Quantized by `mx.quantize` under their own names, in groups of 32: bits, the type of what isn't quantized, and the case.
QUANTIZED = [
    (4, "float16", case(
        "affine4",
        {"a": [attention(num_kv_heads=2, rope_theta=500.0, qk_norm=True), mlp(32, bias=True)], "m": [mamba2(n_groups=2, num_heads=4, head_dim=8)],
         "e": [moe(num_experts=4, intermediate_size=32, expert_norm=True, shared_intermediate_size=32)]},
        norm="layer", positions="learned", max_position_embeddings=80,
    )),
    (8, "bfloat16", case(
        "affine8",
        {"m": [{"type": "mamba", "state_size": 8, "expand": 1}], "a": [attention(window=9), mlp(32, gated=False, activation="relu2")],
         "e": [moe(num_experts=4, intermediate_size=32, latent_size=32, groups=2, top_groups=1, top_k=1)]},
        norm_position="post", positions="sinusoidal", tie_word_embeddings=False, seed=1,
    )),
]
