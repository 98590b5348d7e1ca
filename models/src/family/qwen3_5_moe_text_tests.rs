use crate::testing::*;
use serde_json::{Value, json};

fn config() -> Value {
    json!({
        "model_type": "qwen3_5_moe_text", "vocab_size": 40, "hidden_size": 24,
        "moe_intermediate_size": 6, "shared_expert_intermediate_size": 10, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 3,
        "num_experts_per_tok": 2, "linear_key_head_dim": 5, "linear_value_head_dim": 7,
        "linear_num_key_heads": 2, "linear_num_value_heads": 6
    })
}

#[test]
fn every_layer_has_experts_and_a_gated_shared_one() {
    let model = spec_of(&config());
    for layer in 0..4 {
        let moe = moe(&model, 2 * layer + 1);
        assert_eq!((moe.experts.len(), moe.router.top_k), (3, 2));
        assert!(moe.router.renormalize && moe.shared_gate.is_some());
    }
    assert_eq!(shape(&model, "model.layers.3.mlp.experts.2.up_proj.weight"), [6, 24]);
    assert_eq!(shape(&model, "model.layers.3.mlp.shared_expert.up_proj.weight"), [10, 24]);
    assert_eq!(shape(&model, "model.layers.0.linear_attn.in_proj_qkv.weight"), [62, 24]);
    let error = error_of(&with(&config(), json!({"num_experts_per_tok": 4})));
    assert!(error.contains("num_experts_per_tok"), "{error}");
}
