use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "qwen3", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "rms_norm_eps": 1e-5
    })
}

#[test]
fn each_head_of_queries_and_keys_is_normed() {
    let model = spec_of(&config());
    let norms = attention(&model, 0).qk_norm.as_ref().expect("norms");
    assert!(norms.per_head);
    assert_eq!((norms.q.eps, norms.k.eps), (1e-5, 1e-5));
    assert_eq!(shape(&model, "model.layers.1.self_attn.q_norm.weight"), [8]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.k_norm.weight"), [8]);
    assert_eq!(shape(&model, "model.layers.1.self_attn.q_proj.weight"), [32, 24]);
}

#[test]
fn heads_are_128_wide_by_default() {
    let model = spec_of(&without(&config(), "head_dim"));
    assert_eq!(attention(&model, 0).head_dim, 128);
}

#[test]
fn biases_and_windows_are_switched_on() {
    let model = spec_of(&config());
    assert!(!needs(&model, "model.layers.0.self_attn.q_proj.bias"));
    let patch = json!({
        "attention_bias": true, "use_sliding_window": true, "sliding_window": 5,
        "max_window_layers": 1
    });
    let model = spec_of(&with(&config(), patch));
    assert_eq!(shape(&model, "model.layers.0.self_attn.o_proj.bias"), [24]);
    assert_eq!([0, 2].map(|block| attention(&model, block).window), [None, Some(5)]);
}
