use crate::testing::*;
use crate::{Block, DeltaInputs, Mixer};
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "qwen3_next", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "moe_intermediate_size": 6, "shared_expert_intermediate_size": 10, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 3,
        "num_experts_per_tok": 2, "linear_key_head_dim": 5, "linear_value_head_dim": 7,
        "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_conv_kernel_dim": 3
    })
}

fn kinds(config: &Value) -> Vec<&'static str> {
    let model = spec_of(config);
    model.blocks.iter().map(|block| block.branches[0].mixer.layer().kind()).collect()
}

#[test]
fn every_fourth_layer_is_attention() {
    let (delta, moe) = ("gated delta", "moe");
    assert_eq!(kinds(&config()), [delta, moe, delta, moe, delta, moe, "attention", moe]);
    let interval = with(&config(), json!({"full_attention_interval": 2}));
    let attention = "attention";
    assert_eq!(kinds(&interval), [delta, moe, attention, moe, delta, moe, attention, moe]);
    let listed = json!({"layer_types":
        ["linear_attention", "full_attention", "linear_attention", "full_attention"]});
    assert_eq!(spec_of(&with(&config(), listed)), spec_of(&interval));
    let other = json!({"layer_types": ["linear_attention", "mlp", "mlp", "mlp"]});
    assert!(error_of(&with(&config(), other)).contains("layer_types[1]"));
}

#[test]
fn rows_of_a_key_head_are_together() {
    let model = spec_of(&config());
    let delta = gated_delta(&model, 0);
    assert!(matches!(delta.inputs, DeltaInputs::ByKeyHead(_)));
    let shape = |name: &str| shape(&model, &format!("model.layers.0.linear_attn.{name}"));
    assert_eq!(shape("in_proj_qkvz.weight"), [2 * (10 + 42), 24]);
    assert_eq!(shape("in_proj_ba.weight"), [12, 24]);
    assert_eq!(shape("conv1d.weight"), [10 + 10 + 42, 1, 3]);
    assert_eq!(shape("A_log"), [6]);
    assert_eq!(shape("norm.weight"), [7]);
    assert_eq!(shape("out_proj.weight"), [24, 42]);
    let error = error_of(&with(&config(), json!({"linear_num_value_heads": 5})));
    assert!(error.contains("linear_num_value_heads"), "{error}");
    let error = error_of(&with(&config(), json!({"hidden_act": "gelu"})));
    assert!(error.contains("hidden_act"), "{error}");
}

#[test]
fn queries_and_gates_of_a_head_are_together() {
    let biased = with(&config(), json!({"attention_bias": true}));
    let model = spec_of(&biased);
    let attention = attention(&model, 6);
    assert_eq!((attention.q.len(), attention.gate.len()), (4, 4));
    assert_eq!(attention.q[1].weight.row_offset, 16);
    assert_eq!(attention.gate[1].weight.row_offset, 24);
    assert_eq!(shape(&model, "model.layers.3.self_attn.q_proj.weight"), [64, 24]);
    assert_eq!(shape(&model, "model.layers.3.self_attn.q_proj.bias"), [64]);
    let error = error_of(&with(&config(), json!({"attn_output_gate": false})));
    assert!(error.contains("attn_output_gate"), "{error}");
}

#[test]
fn a_quarter_of_a_head_is_rotated() {
    let rotated = |patch: Value| {
        let model = spec_of(&with(&config(), patch));
        attention(&model, 6).rope.as_ref().map(|rope| 2 * rope.inv_freq.len())
    };
    assert_eq!(rotated(json!({})), Some(2));
    assert_eq!(rotated(json!({"partial_rotary_factor": 0.5})), Some(4));
    let both = json!({"partial_rotary_factor": 0.5,
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}});
    assert_eq!(rotated(both), Some(8));
}

#[test]
fn most_norms_are_around_one() {
    let model = spec_of(&config());
    assert!(model.blocks.iter().flat_map(Block::norms).all(|norm| norm.offset == 1.0));
    assert_eq!(model.head.norm.offset, 1.0);
    let qk = attention(&model, 6).qk_norm.as_ref().unwrap();
    assert_eq!((qk.q.offset, qk.k.offset), (1.0, 1.0));
    assert_eq!(gated_delta(&model, 0).norm.offset, 0.0);
}

#[test]
fn experts_have_a_gated_one_beside_them() {
    let model = spec_of(&with(&config(), json!({"mlp_only_layers": [2]})));
    let first = moe(&model, 1);
    assert!(first.router.renormalize);
    assert_eq!(shape(&model, "model.layers.0.mlp.shared_expert.down_proj.weight"), [24, 10]);
    assert_eq!(shape(&model, "model.layers.0.mlp.shared_expert_gate.weight"), [1, 24]);
    assert!(matches!(model.blocks[5].branches[0].mixer, Mixer::Dense(_)));
    assert_eq!(shape(&model, "model.layers.2.mlp.up_proj.weight"), [20, 24]);
}

#[test]
fn heads_of_all_layers_are_bounded() {
    let many = json!({"num_hidden_layers": 4096, "num_experts": 0, "full_attention_interval": 1,
        "num_attention_heads": 32});
    let error = error_of(&with(&config(), many));
    assert!(error.contains("4096 * 32 is more than the 65536"), "{error}");
    let many = json!({"num_hidden_layers": 4096, "num_experts": 0, "full_attention_interval": 4097,
        "linear_num_key_heads": 32, "linear_num_value_heads": 32});
    let error = error_of(&with(&config(), many));
    assert!(error.contains("4096 * 32 is more than the 65536"), "{error}");
}
