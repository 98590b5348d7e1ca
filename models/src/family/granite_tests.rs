use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "granite", "vocab_size": 40, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "embedding_multiplier": 12, "attention_multiplier": 0.015625, "residual_multiplier": 0.22,
        "logits_scaling": 8.0, "tie_word_embeddings": true
    })
}

#[test]
fn four_factors() {
    let model = spec_of(&config());
    assert_eq!((model.embedding.scale, model.head.scale), (12.0, 0.125));
    assert!(model.blocks.iter().all(|block| block.residual_scale == 0.22));
    assert_eq!(attention(&model, 2).scale, 0.015625);
}

#[test]
fn factors_are_one_by_default() {
    let model = spec_of(&json!({"model_type": "granite"}));
    assert_eq!((model.embedding.scale, model.head.scale), (1.0, 1.0));
    assert_eq!((attention(&model, 0).scale, model.blocks[0].residual_scale), (1.0, 1.0));
    assert!(error_of(&with(&config(), json!({"logits_scaling": 0}))).contains("logits_scaling"));
}

#[test]
fn biases() {
    let model = spec_of(&with(&config(), json!({"attention_bias": true, "mlp_bias": true})));
    assert_eq!(shape(&model, "model.layers.0.self_attn.k_proj.bias"), [12]);
    assert_eq!(shape(&model, "model.layers.0.mlp.down_proj.bias"), [24]);
}
