use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "mistral", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
        "sliding_window": 16
    })
}

#[test]
fn a_window_is_in_every_layer() {
    let model = spec_of(&config());
    assert_eq!([0, 2].map(|block| attention(&model, block).window), [Some(16); 2]);
    assert!(!needs(&model, "model.layers.0.self_attn.q_proj.bias"));
}

#[test]
fn an_absent_window_is_not_a_null_one() {
    let model = spec_of(&with(&config(), json!({"sliding_window": null})));
    assert_eq!(attention(&model, 0).window, None);
    let model = spec_of(&without(&config(), "sliding_window"));
    assert_eq!(attention(&model, 0).window, Some(4096));
    assert!(error_of(&with(&config(), json!({"sliding_window": 0}))).contains("sliding_window"));
}

#[test]
fn windows_by_layer_are_of_another_family() {
    let mixed = json!({"layer_types": ["full_attention", "sliding_attention"]});
    assert!(error_of(&with(&config(), mixed)).contains("layer_types[0]"));
    let same = json!({"layer_types": ["sliding_attention", "sliding_attention"]});
    assert_eq!(spec_of(&with(&config(), same)), spec_of(&config()));
}

#[test]
fn key_value_heads_default_to_eight_and_null_to_the_heads() {
    let model = spec_of(&without(&config(), "num_key_value_heads"));
    assert_eq!(attention(&model, 0).kv_heads, 8);
    let patch = json!({"num_attention_heads": 4, "num_key_value_heads": null});
    assert_eq!(attention(&spec_of(&with(&config(), patch)), 0).kv_heads, 4);
}
