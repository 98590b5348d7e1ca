use serde_json::{Value, json};

use crate::testing::{error_of, spec_of, with};
use crate::{Activation, CellGating, ForgetGate, Mamba2Gate, Mixer, Positions, Residual, Tiers};

/// A model with one kind of layer of one part.
fn config(part: Value) -> Value {
    json!({
        "model_type": "kinglet_hybrid", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1,
        "kinds": {"a": [part]}, "pattern": ["a"]
    })
}

fn mlp() -> Value {
    json!({"type": "mlp", "intermediate_size": 20})
}

fn moe() -> Value {
    json!({"type": "moe", "num_experts": 6, "top_k": 2, "intermediate_size": 8})
}

fn attention(kind: &str) -> Value {
    json!({"type": kind, "num_heads": 6, "head_dim": 8})
}

/// The layer of a part with changed fields.
fn layer(part: Value, fields: Value) -> Mixer {
    spec_of(&config(with(&part, fields))).blocks[0].branches[0].mixer.clone()
}

#[track_caller]
fn refused(config: &Value, words: &[&str]) {
    let error = error_of(config);
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn the_pattern_repeats_until_all_layers_stand() {
    let model = spec_of(&json!({
        "model_type": "kinglet_hybrid", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 5,
        "kinds": {
            "m": [{"type": "mamba", "state_size": 4}],
            "a": [attention("attention"), mlp()],
            "unused": [moe()]
        },
        "pattern": ["m", "m", "a"]
    }));
    let kinds: Vec<_> = model
        .blocks
        .iter()
        .map(|block| (block.layer, block.branches[0].mixer.layer().kind()))
        .collect();
    let expected = [
        (0, "mamba"),
        (1, "mamba"),
        (2, "attention"),
        (2, "dense ffn"),
        (3, "mamba"),
        (4, "mamba"),
    ];
    assert_eq!(kinds, expected);
    let names: Vec<_> = model.tensors().iter().map(|tensor| tensor.name.clone()).collect();
    for name in [
        "model.embed_tokens.weight",
        "model.layers.0.0.norm.weight",
        "model.layers.2.0.q.weight",
        "model.layers.2.1.norm.weight",
        "model.layers.2.1.gate.weight",
        "model.norm.weight",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    assert!(!names.iter().any(|name| name == "lm_head.weight"));
}

#[test]
fn defaults_are_those_of_the_format() {
    let model = spec_of(&config(mlp()));
    assert_eq!((model.max_positions, model.head.soft_cap), (None, None));
    assert_eq!((model.embedding.scale, &model.embedding.positions), (1.0, &None));
    assert!(model.head.untied.is_some());
    let block = &model.blocks[0];
    let norm = block.norm.as_ref().unwrap();
    assert_eq!((norm.eps, norm.centred, block.residual_scale), (1e-5, false, 1.0));
    assert_eq!((block.residual, &block.stream_norm), (Residual::Stream, &None));
    let Mixer::Dense(dense) = &block.branches[0].mixer else { panic!() };
    assert_eq!((dense.activation, dense.gate.is_some()), (Activation::Silu, true));
    assert_eq!(dense.up.bias, None);
    let Mixer::Attention(attention) = layer(attention("attention"), json!({})) else { panic!() };
    assert_eq!((attention.kv_heads, attention.window, &attention.rope), (6, None, &None));
    let mamba = json!({"type": "mamba", "state_size": 4});
    let Mixer::Mamba(mamba) = layer(mamba, json!({})) else { panic!() };
    assert_eq!((mamba.inner, mamba.dt_rank, mamba.conv.kernel), (64, 2, 4));
    let mamba2 = json!({"type": "mamba2", "state_size": 4, "num_heads": 2, "head_dim": 8});
    let Mixer::Mamba2(mamba2) = layer(mamba2, json!({})) else { panic!() };
    assert_eq!((mamba2.groups, mamba2.dt_limit), (1, (0.0, f32::INFINITY)));
    assert!(matches!(mamba2.gate, Mamba2Gate::NormAfter { groups: 1, .. }));
    let Mixer::Moe(moe) = layer(moe(), json!({})) else { panic!() };
    assert!(moe.router.renormalize && moe.router.groups.is_none());
    assert!(moe.shared.is_none() && moe.latent.is_none() && moe.expert_norm.is_none());
}

#[test]
fn a_part_sets_its_own_norm_and_scale() {
    let own = json!({"norm": "rms", "norm_eps": 0.5, "residual_scale": 2.0});
    let model = with(&config(with(&mlp(), own)), json!({"norm": "layer", "residual_scale": 0.1}));
    let model = spec_of(&model);
    let block = &model.blocks[0];
    let norm = block.norm.as_ref().unwrap();
    assert_eq!((norm.centred, norm.eps, block.residual_scale), (false, 0.5, 2.0));
    assert!(model.head.norm.centred && model.head.norm.bias.is_some());
}

#[test]
fn norms_after_the_sum_are_those_of_the_stream() {
    let model = with(&config(mlp()), json!({"norm_position": "post", "norm": "layer"}));
    let block = &spec_of(&model).blocks[0];
    assert_eq!(block.norm, None);
    let norm = block.stream_norm.as_ref().unwrap();
    assert_eq!(norm.bias.as_ref().unwrap().name, "model.layers.0.0.norm.bias");
}

#[test]
fn positions_are_none_learned_or_sines() {
    let of = |fields| spec_of(&with(&config(mlp()), fields));
    let learned = of(json!({"positions": "learned", "max_position_embeddings": 9}));
    let Some(Positions::Learned(table)) = &learned.embedding.positions else { panic!() };
    assert_eq!((table.rows, &*table.tensor.name), (9, "model.embed_positions.weight"));
    assert_eq!(learned.max_positions, Some(9));
    let sines = of(json!({"positions": "sinusoidal"}));
    assert_eq!(sines.embedding.positions, Some(Positions::Sinusoidal));
    let refused = |fields, word| refused(&with(&config(mlp()), fields), &[word]);
    refused(json!({"positions": "learned"}), "max_position_embeddings");
    refused(
        json!({"positions": "learned", "max_position_embeddings": 0}),
        "max_position_embeddings",
    );
    refused(json!({"positions": "rotary"}), "positions");
    refused(json!({"positions": "sinusoidal", "hidden_size": 33}), "hidden_size");
}

#[test]
fn temperature_groups_and_norms_of_experts() {
    let fields = json!({"temperature": 0.5, "groups": 3, "top_groups": 2, "expert_norm": true,
        "latent_size": 16});
    let Mixer::Moe(moe) = layer(moe(), fields) else { panic!() };
    assert_eq!(moe.router.linear.scale, 2.0);
    assert_eq!(moe.router.groups.map(|groups| (groups.count, groups.used)), Some((3, 2)));
    assert_eq!(moe.expert_norm.unwrap().weight.shape, [6, 16]);
    assert_eq!(moe.experts[2].up.weight.row_offset, 16);
}

#[test]
fn every_field_that_is_missing_or_unknown_is_named() {
    for key in ["vocab_size", "hidden_size", "num_hidden_layers", "kinds", "pattern"] {
        refused(&with(&config(mlp()), json!({ key: null })), &[key]);
    }
    for key in ["vocab", "rms_norm_eps", "multimodal"] {
        refused(&with(&config(mlp()), json!({ key: 1 })), &[key]);
        refused(&with(&config(mlp()), json!({ key: null })), &[key]);
    }
    let beside = json!({"architectures": ["KingletHybridForCausalLM"], "dtype": "bfloat16",
        "torch_dtype": "float32", "transformers_version": "5", "eos_token_id": 1});
    spec_of(&with(&config(mlp()), beside));
    for (part, keys) in [
        (mlp(), &["type", "intermediate_size"][..]),
        (moe(), &["num_experts", "top_k", "intermediate_size"]),
        (attention("attention"), &["num_heads", "head_dim"]),
        (attention("hybrid_attention"), &["num_heads", "head_dim"]),
        (json!({"type": "mamba", "state_size": 4}), &["state_size"]),
        (
            json!({"type": "mamba2", "state_size": 4, "num_heads": 2, "head_dim": 8}),
            &["state_size", "num_heads", "head_dim"],
        ),
        (json!({"type": "mlstm", "num_heads": 2, "qk_head_dim": 8}), &["num_heads", "qk_head_dim"]),
        (json!({"type": "slstm", "num_heads": 2}), &["num_heads"]),
    ] {
        for key in keys {
            let named = format!("kinds.a[0].{key}");
            refused(&config(with(&part, json!({ *key: null }))), &[&named, "missing"]);
        }
        refused(&config(with(&part, json!({"dropout": 0.1}))), &["kinds.a[0].dropout"]);
        refused(&config(with(&part, json!({"type": "rwkv"}))), &["kinds.a[0].type", "rwkv"]);
    }
    // A field of another type of part.
    refused(&config(with(&mlp(), json!({"num_heads": 2}))), &["kinds.a[0].num_heads"]);
    refused(&config(with(&attention("linear_attention"), json!({"window": 2}))), &["window"]);
}

#[test]
fn kinds_and_pattern_must_fit() {
    let of = |fields| with(&config(mlp()), fields);
    refused(&of(json!({"pattern": ["a", "b"]})), &["pattern[1]", "\"b\""]);
    refused(&of(json!({"pattern": []})), &["pattern"]);
    refused(&of(json!({"pattern": "a"})), &["pattern"]);
    refused(&of(json!({"kinds": {"a": []}})), &["kinds.a"]);
    refused(&of(json!({"kinds": {"a": mlp()}})), &["kinds.a"]);
    refused(&of(json!({"kinds": {"a": [3]}})), &["kinds.a[0]"]);
    refused(&of(json!({"kinds": ["a"]})), &["kinds"]);
    // A kind that is not in the pattern is read too.
    refused(&of(json!({"kinds": {"a": [mlp()], "b": [{"type": "mlp"}]}})), &["kinds.b[0]"]);
}

#[test]
fn sizes_that_do_not_divide_name_the_divisor() {
    let part =
        |part: Value, fields: Value, word: &str| refused(&config(with(&part, fields)), &[word]);
    part(attention("attention"), json!({"num_kv_heads": 4}), "kinds.a[0].num_kv_heads");
    part(attention("attention"), json!({"head_dim": 7, "rope_theta": 1e4}), "kinds.a[0].head_dim");
    let mamba2 = json!({"type": "mamba2", "state_size": 4, "num_heads": 6, "head_dim": 8});
    part(mamba2, json!({"n_groups": 4}), "kinds.a[0].n_groups");
    part(moe(), json!({"groups": 4}), "kinds.a[0].groups");
    part(moe(), json!({"groups": 3, "top_groups": 4}), "kinds.a[0].top_groups");
    part(moe(), json!({"top_k": 7}), "kinds.a[0].top_k");
    part(moe(), json!({"groups": 3, "top_groups": 1, "top_k": 3}), "kinds.a[0].top_k");
    for kind in ["mlstm", "slstm"] {
        let cell = json!({"type": kind, "num_heads": 5});
        let cell = if kind == "mlstm" { with(&cell, json!({"qk_head_dim": 8})) } else { cell };
        part(cell.clone(), json!({}), "kinds.a[0].num_heads");
        part(cell, json!({"proj_factor": 1.01}), "kinds.a[0].proj_factor");
    }
}

#[test]
fn values_that_are_not_computed_are_named() {
    let part =
        |part: Value, fields: Value, word: &str| refused(&config(with(&part, fields)), &[word]);
    part(mlp(), json!({"activation": "swish"}), "kinds.a[0].activation");
    part(mlp(), json!({"norm": "batch"}), "kinds.a[0].norm");
    part(attention("attention"), json!({"causal": false}), "kinds.a[0].causal");
    let mamba2 = json!({"type": "mamba2", "state_size": 4, "num_heads": 6, "head_dim": 8});
    part(mamba2.clone(), json!({"gate": "tanh"}), "kinds.a[0].gate");
    part(mamba2, json!({"time_step_limit": [0.3, 0.1]}), "kinds.a[0].time_step_limit");
    let slstm = json!({"type": "slstm", "num_heads": 4});
    part(slstm.clone(), json!({"gating": "relu"}), "kinds.a[0].gating");
    part(slstm, json!({"gating": "sigmoid", "forget_gate": "exp"}), "kinds.a[0].forget_gate");
    refused(&with(&config(mlp()), json!({"norm_position": "both"})), &["norm_position"]);
    refused(&with(&config(mlp()), json!({"logit_soft_cap": 0})), &["logit_soft_cap"]);
}

#[test]
fn thresholds_rise_and_the_later_one_is_named() {
    let refused = |fields, word| {
        refused(&config(with(&attention("hybrid_attention"), fields)), &[word]);
    };
    refused(json!({"window": 5000}), "kinds.a[0].full_until");
    refused(json!({"full_until": 40000}), "kinds.a[0].dilated_until");
    refused(json!({"dilated_until": 2000000}), "kinds.a[0].linear_until");
    refused(json!({"window": 0}), "kinds.a[0].window");
}

#[test]
fn cells_and_attention_of_our_own_have_the_defaults_of_the_format() {
    let of = |part: Value| layer(part, json!({}));
    let Mixer::KernelAttention(linear) = of(attention("linear_attention")) else { panic!() };
    assert_eq!((linear.heads, linear.kv_heads, linear.head_dim), (6, 6, 8));
    assert_eq!((linear.rope, linear.qk_norm, linear.q.bias), (None, None, None));
    let Mixer::HybridAttention(hybrid) = of(attention("hybrid_attention")) else { panic!() };
    let tiers = Tiers {
        window: 4096,
        full_until: 4096,
        dilated_until: 32768,
        linear_until: 1_000_000,
        levels: 3,
        global_first: 4,
        global_top: 64,
        hierarchy_block: 64,
        hierarchy_levels: 4,
        hierarchy_width: 16,
    };
    assert_eq!(hybrid.tiers, tiers);
    assert_eq!(hybrid.context.map(|context| context.weight.rows), Some(6));
    let without = layer(attention("hybrid_attention"), json!({"context": false}));
    let Mixer::HybridAttention(without) = without else { panic!() };
    assert_eq!((without.context, without.tiers.global_top), (None, 0));
    let Mixer::MultiLevelAttention(levels) = of(attention("multi_level_attention")) else {
        panic!()
    };
    assert_eq!(levels.windows, [None; 3]);
    let windows = json!({"levels": 2, "windows": [0, 9]});
    let Mixer::MultiLevelAttention(levels) = layer(attention("multi_level_attention"), windows)
    else {
        panic!()
    };
    assert_eq!(levels.windows, [None, Some(9)]);
    let Mixer::MLstm(mlstm) = of(json!({"type": "mlstm", "num_heads": 2, "qk_head_dim": 8})) else {
        panic!()
    };
    assert_eq!((mlstm.v_head_dim, mlstm.forget_gate), (32, ForgetGate::Sigmoid));
    assert!(mlstm.head_norm.is_none() && mlstm.inner.is_some_and(|inner| inner.conv.is_none()));
    let Mixer::SLstm(slstm) = of(json!({"type": "slstm", "num_heads": 2})) else { panic!() };
    assert_eq!(slstm.gating, CellGating::Exponential(ForgetGate::Sigmoid));
    assert_eq!(slstm.recurrent.map(|tensor| tensor.shape), Some(vec![2, 4, 16, 16]));
    let levels = json!({"windows": [1, 2]});
    refused(&config(with(&attention("multi_level_attention"), levels)), &["kinds.a[0].windows"]);
}

#[test]
fn many_parts_and_experts_are_bounded() {
    let many = json!({"num_hidden_layers": 4096, "kinds": {"a": [mlp(), mlp(), mlp()]}});
    refused(&with(&config(mlp()), many), &["num_hidden_layers"]);
    let experts = with(&moe(), json!({"num_experts": 4096}));
    refused(&with(&config(experts), json!({"num_hidden_layers": 17})), &["num_hidden_layers"]);
}
