use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "qwen2", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2
    })
}

fn windows(config: &Value) -> Vec<Option<usize>> {
    let model = spec_of(config);
    [0, 2, 4].map(|block| attention(&model, block).window).to_vec()
}

#[test]
fn queries_keys_and_values_have_biases() {
    let model = spec_of(&config());
    assert_eq!(shape(&model, "model.layers.2.self_attn.q_proj.bias"), [24]);
    assert_eq!(shape(&model, "model.layers.2.self_attn.v_proj.bias"), [12]);
    assert!(!needs(&model, "model.layers.2.self_attn.o_proj.bias"));
    assert!(!needs(&model, "model.layers.2.mlp.up_proj.bias"));
}

#[test]
fn windows_are_in_the_later_layers_if_switched_on() {
    let fields = json!({"sliding_window": 8, "max_window_layers": 1});
    assert_eq!(windows(&with(&config(), fields.clone())), [None; 3]);
    let on = with(&with(&config(), fields), json!({"use_sliding_window": true}));
    assert_eq!(windows(&on), [None, Some(8), Some(8)]);
    assert_eq!(windows(&with(&on, json!({"sliding_window": null}))), [None; 3]);
    assert_eq!(windows(&without(&on, "sliding_window")), [None, Some(4096), Some(4096)]);
    assert_eq!(windows(&without(&on, "max_window_layers")), [None; 3]);
}

#[test]
fn layer_types_overrule() {
    let types = json!({
        "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0,
        "layer_types": ["sliding_attention", "full_attention", "attention"]
    });
    let listed = with(&config(), types);
    assert_eq!(windows(&listed), [Some(8), None, None]);
    let error = error_of(&with(&listed, json!({"use_sliding_window": false})));
    assert!(error.contains("sliding_window"), "{error}");
    let error = error_of(&with(&listed, json!({"layer_types": ["full_attention"]})));
    assert!(error.contains("has 1 entries; expected 3 (num_hidden_layers)"), "{error}");
    let unknown = json!({"layer_types": ["full_attention", "chunked_attention", "attention"]});
    assert!(error_of(&with(&listed, unknown)).contains("layer_types[1]"));
}
