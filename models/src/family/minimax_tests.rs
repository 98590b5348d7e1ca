use crate::testing::*;
use crate::{Mixer, Residual};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "minimax", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "num_local_experts": 3, "num_experts_per_tok": 2,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"]
    })
}

fn kinds(config: &Value) -> String {
    let model = spec_of(config);
    let kinds = model.blocks.iter().map(|block| match block.branches[0].mixer {
        Mixer::Attention(_) => 'a',
        Mixer::LinearAttention(_) => 'l',
        Mixer::Moe(_) => 'm',
        _ => '?',
    });
    kinds.collect()
}

/// Alpha and beta of the first three blocks: linear attention, experts, attention.
fn factors(patch: Value) -> [(f32, f32); 3] {
    let model = spec_of(&with(&config(), patch));
    [0, 1, 2].map(|block| match model.blocks[block].residual {
        Residual::Normed { scale } => (scale, model.blocks[block].residual_scale),
        other => panic!("block {block} has the residual {other:?}"),
    })
}

#[test]
fn tensors_and_shapes() {
    let model = spec_of(&config());
    assert_eq!(shape(&model, "model.layers.0.self_attn.qkv_proj.weight"), [96, 24]);
    assert_eq!(shape(&model, "model.layers.0.self_attn.output_gate.weight"), [32, 24]);
    assert_eq!(shape(&model, "model.layers.0.self_attn.norm.weight"), [32]);
    assert_eq!(shape(&model, "model.layers.0.self_attn.out_proj.weight"), [24, 32]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.o_proj.weight"), [24, 32]);
    assert_eq!(shape(&model, "model.layers.2.block_sparse_moe.experts.2.w2.weight"), [24, 20]);
    assert_eq!(linear_attention(&model, 0).norm.eps, 1e-6);
    assert!(model.ignored.iter().any(|name| name == "*.self_attn.slope_rate"));
}

#[test]
fn layers_by_their_kinds_by_numbers_or_in_turn() {
    assert_eq!(kinds(&config()), "lmamlm");
    let older = without(&config(), "layer_types");
    assert_eq!(kinds(&older), "amlmam");
    assert_eq!(kinds(&with(&older, json!({"attn_type_list": [0, 0, 1]}))), "lmlmam");
    assert!(error_of(&with(&older, json!({"attn_type_list": [0, 1]}))).contains("attn_type_list"));
    assert!(
        error_of(&with(&older, json!({"attn_type_list": [0, 1, 2]}))).contains("attn_type_list")
    );
    let other = json!({"layer_types": ["conv", "full_attention", "full_attention"]});
    assert!(error_of(&with(&config(), other)).contains("layer_types[0]"));
}

#[test]
fn decays_follow_from_head_and_layer() {
    let model = spec_of(&config());
    let first = &linear_attention(&model, 0).log_decays;
    let exact = [0.25, 0.0625, 0.015625, 0.00390625].map(|rate: f64| -rate * (1.0 + 1e-5));
    for (found, exact) in first.iter().zip(exact) {
        assert!((f64::from(*found) - exact).abs() < 1e-7 * exact.abs(), "{found} {exact}");
    }
    // Layer 2 of 0 to 2: 1 - 2 / 2.00001 + 1e-5 remain.
    let last = linear_attention(&model, 4).log_decays[0];
    assert!((f64::from(last) / -0.25 - 1.5e-5).abs() < 1e-9, "{last}");
    let one = json!({"num_hidden_layers": 1, "layer_types": ["linear_attention"]});
    assert!(linear_attention(&spec_of(&with(&config(), one)), 0).log_decays[0] < -0.25);
}

#[test]
fn factors_have_two_names() {
    assert_eq!(factors(json!({})), [(1.0, 1.0); 3]);
    let newer = json!({
        "linear_attn_alpha_factor": 2, "linear_attn_beta_factor": 3.0, "mlp_alpha_factor": 4.0,
        "mlp_beta_factor": 5.0, "full_attn_alpha_factor": 6.0, "full_attn_beta_factor": 7.0
    });
    assert_eq!(factors(newer), [(2.0, 3.0), (4.0, 5.0), (6.0, 7.0)]);
    let older = json!({
        "layernorm_linear_attention_alpha": 2.0, "layernorm_linear_attention_beta": 3.0,
        "layernorm_mlp_alpha": 4.0, "layernorm_mlp_beta": 5.0,
        "layernorm_full_attention_alpha": 6.0, "layernorm_full_attention_beta": 7.0
    });
    assert_eq!(factors(older), [(2.0, 3.0), (4.0, 5.0), (6.0, 7.0)]);
    let infinite = json!({"mlp_alpha_factor": {"__float__": "Infinity"}});
    assert!(error_of(&with(&config(), infinite)).contains("mlp_alpha_factor"));
    assert!(error_of(&with(&config(), json!({"postnorm": false}))).contains("postnorm"));
}

/// The same model in the spelling of MiniMax's own code.
fn published(model_type: &str) -> Value {
    let config = without(&config(), "layer_types");
    with(
        &config,
        json!({"model_type": model_type, "attn_type_list": [0, 1, 0], "postnorm": true,
            "rope_theta": 1e7, "rotary_dim": 4, "shared_intermediate_size": 0, "sliding_window": null,
            "layernorm_linear_attention_alpha": 3.5, "layernorm_full_attention_alpha": 2.5,
            "layernorm_mlp_alpha": 1.5, "shared_moe_mode": "sigmoid"}),
    )
}

#[test]
fn published_checkpoints_have_names_of_their_own() {
    let config = published("minimax_text_01");
    let model = spec_of(&config);
    assert_eq!((&*model.model_type, &*kinds(&config)), ("minimax", "lmamlm"));
    assert_eq!(spec_of(&published("minimax_m1")), model);
    let by_class = json!({"architectures": ["MiniMaxText01ForCausalLM"]});
    assert_eq!(spec_of(&with(&without(&config, "model_type"), by_class)), model);
    // Half of a head is rotated.
    let rope = |config: &Value| attention(&spec_of(config), 2).rope.clone().expect("rope");
    assert_eq!(rope(&config).inv_freq, [1.0, (1e7f64.sqrt() as f32).recip()]);
    assert_eq!(rope(&without(&config, "rotary_dim")).inv_freq.len(), 4);
    let alphas = [0, 1, 2].map(|block| model.blocks[block].residual);
    assert_eq!(alphas, [3.5, 1.5, 2.5].map(|scale| Residual::Normed { scale }));
    // Without the field branches are added to the stream as it is.
    let plain = [
        "postnorm",
        "layernorm_linear_attention_alpha",
        "layernorm_full_attention_alpha",
        "layernorm_mlp_alpha",
    ];
    let plain = plain.iter().fold(config.clone(), |config, key| without(&config, key));
    assert!(spec_of(&plain).blocks.iter().all(|block| block.residual == Residual::Stream));
    for (patch, part) in [
        (json!({"postnorm": false}), "layernorm_full_attention_alpha"),
        (json!({"shared_intermediate_size": 16}), "shared_intermediate_size"),
        (json!({"shared_intermediate_size": [0, 16, 0]}), "shared_intermediate_size"),
        (json!({"attn_type_list": null}), "attn_type_list"),
        (json!({"rotary_dim": 10}), "rotary_dim"),
        (json!({"rotary_dim": 3}), "rotary_dim"),
        (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_scaling"),
    ] {
        let error = error_of(&with(&config, patch));
        assert!(error.contains(part), "{error}");
    }
    spec_of(&with(&config, json!({"shared_intermediate_size": [0, 0, 0]})));
}

#[test]
fn published_decays_of_heads_that_are_no_power_of_two() {
    let config = with(
        &published("minimax_text_01"),
        json!({"num_attention_heads": 6, "num_key_value_heads": 3}),
    );
    let model = spec_of(&config);
    // Four as of four heads, then the first and the third of eight.
    let exponents = [2.0, 4.0, 6.0, 8.0, 1.0, 3.0];
    for (block, factor) in [(0, 1.0 + 1e-5), (4, 1e-5)] {
        for (found, exponent) in linear_attention(&model, block).log_decays.iter().zip(exponents) {
            let exact = -2f64.powf(-exponent) * factor;
            assert!((f64::from(*found) / exact - 1.0).abs() < 1e-6, "{found} {exact}");
        }
    }
}

#[test]
fn the_window_is_that_of_softmax_attention() {
    let model = spec_of(&with(&config(), json!({"sliding_window": 5})));
    assert_eq!(attention(&model, 2).window, Some(5));
    assert_eq!(attention(&spec_of(&config()), 2).window, None);
}
