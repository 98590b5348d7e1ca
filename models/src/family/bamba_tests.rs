use crate::Mixer;
use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "bamba", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
        "attn_layer_indices": [1], "mamba_n_heads": 6, "mamba_d_head": 8, "mamba_d_state": 10
    })
}

#[test]
fn attention_layers_are_listed() {
    let model = spec_of(&config());
    let kinds = model.blocks.iter().map(|block| match block.branches[0].mixer {
        Mixer::Attention(_) => 'a',
        Mixer::Mamba2(_) => 'm',
        Mixer::Dense(_) => 'd',
        _ => '?',
    });
    assert_eq!(kinds.collect::<String>(), "mdadmd");
    assert_eq!(model.head.norm.weight.name, "model.final_layernorm.weight");
    assert_eq!(norm_name(&model, 1), "model.layers.0.pre_ff_layernorm.weight");
    assert_eq!(shape(&model, "model.layers.2.feed_forward.up_proj.weight"), [20, 24]);
    assert_eq!(shape(&model, "model.layers.2.mamba.in_proj.weight"), [48 + 68 + 6, 24]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.k_proj.weight"), [8, 24]);
    assert_eq!(spec_of(&with(&config(), json!({"attn_layer_indices": [1, 7]}))), model);
}

#[test]
fn half_of_each_head_is_rotated() {
    let rotated = |patch| {
        let model = spec_of(&with(&config(), patch));
        attention(&model, 2).rope.as_ref().expect("rope").inv_freq.len() * 2
    };
    assert_eq!(rotated(json!({})), 4);
    assert_eq!(rotated(json!({"partial_rotary_factor": 1.0})), 4, "the reference fixes it");
    let inner = json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}});
    assert_eq!(rotated(inner), 6);
}

#[test]
fn derived_kinds_of_layers_must_agree() {
    let derived = json!({"layers_block_type": ["mamba", "attention", "mamba"]});
    assert_eq!(spec_of(&with(&config(), derived.clone())), spec_of(&config()));
    let alone = with(&without(&config(), "attn_layer_indices"), derived);
    assert_eq!(spec_of(&alone), spec_of(&config()));
    let other = json!({"layer_types": ["mamba", "mamba", "mamba"]});
    assert!(error_of(&with(&config(), other)).contains("layer_types[1]"));
    let model = spec_of(&without(&config(), "attn_layer_indices"));
    mamba2(&model, 2);
}

#[test]
fn biases() {
    let patch = json!({
        "attention_bias": true, "mlp_bias": true, "mamba_proj_bias": true, "mamba_conv_bias": false
    });
    let model = spec_of(&with(&config(), patch));
    assert_eq!(shape(&model, "model.layers.1.self_attn.o_proj.bias"), [24]);
    assert_eq!(shape(&model, "model.layers.1.feed_forward.down_proj.bias"), [24]);
    assert_eq!(shape(&model, "model.layers.0.mamba.out_proj.bias"), [24]);
    assert!(!needs(&model, "model.layers.0.mamba.conv1d.bias"));
}
