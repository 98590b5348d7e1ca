use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "olmoe", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 10,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_experts": 3, "num_experts_per_tok": 2
    })
}

#[test]
fn all_queries_are_normed_at_once() {
    let model = spec_of(&config());
    let first = attention(&model, 0);
    assert!(!first.qk_norm.as_ref().expect("norms").per_head);
    assert_eq!(first.clip, None);
    assert_eq!(shape(&model, "model.layers.0.self_attn.q_norm.weight"), [24]);
    assert_eq!(shape(&model, "model.layers.0.self_attn.k_norm.weight"), [12]);
    let model = spec_of(&with(&config(), json!({"clip_qkv": 8})));
    assert_eq!(attention(&model, 2).clip, Some(8.0));
}

#[test]
fn experts() {
    let model = spec_of(&config());
    assert!(!moe(&model, 1).router.renormalize);
    assert_eq!(shape(&model, "model.layers.1.mlp.experts.2.up_proj.weight"), [10, 24]);
    let model = spec_of(&with(&config(), json!({"norm_topk_prob": true})));
    assert!(moe(&model, 1).router.renormalize);
}

#[test]
fn heads_fill_the_hidden_size() {
    let error = error_of(&with(&config(), json!({"head_dim": 8})));
    assert!(error.contains("num_attention_heads * head_dim = 32"), "{error}");
}
